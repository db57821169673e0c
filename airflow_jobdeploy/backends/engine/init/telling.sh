# What is told to the near side: files of the report.

# enter <phase> <status> <reason>: rewrites the state, and adds to the history when it has changed
entered=
enter() {
    if [ "$entered" != "$2 $3" ]; then
        entered="$2 $3"
        printf '%s %s %s\n' "$(date +%s)" "$2" "${3:--}" >>"$report/history"
    fi
    printf '%s\n' "$1" "$2" "$3" "${step_name:-}" "${left:-}" >"$report/.state" &&
        mv "$report/.state" "$report/state"
}

# fact <key> <value>: a line of the report of the end
fact() {
    printf '%s=%s\n' "$1" "$2" >>"$report/facts"
}

# measure_disk: a disk that is full now explains what has failed; from here on the report has room
measured=
measure_disk() {
    [ -z "$measured" ] || return 0
    measured=1
    free=$(df -P -k "$job" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && echo "$free"; })
    release
    case $free in '' | *[!0-9]*) ;; *) [ "$free" -ge 64 ] || fact disk_free_kib "$free" ;; esac
}

# finish <code>: the report is complete; the container ends with the command's own code
finish() {
    [ "$JD_BUILD" != up ] || rm -f "$shared/alive/$JD_ID"
    end_meter
    measure_disk
    list_output
    printf '%s\n' "$1" >"$report/code"
    : >"$report/end"
    exit "$1"
}

# The output's files with sha256 and size, where the image has the programs; else the near side reads them.
list_output() {
    [ -d "$job/output" ] || return 0
    rm -rf "$report/names" "$report/sums" "$report/sizes"
    (
        cd "$job/output" || exit 0
        find . -type f -print0 >"$report/names" || exit 0
        [ -s "$report/names" ] || exit 0
        xargs -0 sha256sum -- <"$report/names" >"$report/sums"
        xargs -0 stat -c '%s %a' -- <"$report/names" >"$report/sizes"
    )
}
