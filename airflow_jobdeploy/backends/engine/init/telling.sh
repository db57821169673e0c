# What is told to the near side: files of the report.

# enter <phase> <status> <reason>: adds to the history what has changed; its last line is the state
entered=
entries=
enter() {
    [ "$entered" != "$* ${step_name:-} ${left:-}" ] || return 0
    entered="$* ${step_name:-} ${left:-}"
    now
    [ -n "${epoch:-}" ] || epoch=$(($(date +%s) - now / 100))
    time=$((epoch + now / 100))
    printf '%s %s %s %s %s %s\n' "$time" "$2" "${3:--}" "$1" "${left:--}" "${step_name:-}" >>"$report/history"
    entries="$entries/$time $2 ${3:--} $1"
}

# fact <key> <value>: a line of the report of the end
is_short=1
fact() {
    case $1 in status | ok | step) ;; *) is_short= ;; esac
    printf '%s=%s\n' "$1" "$2" >>"$report/facts"
}

# tell_shortly <code>: a report with nothing special in it is also the target of a link, since it takes an engine a
# tenth of the time to say where a link leads
tell_shortly() {
    [ -n "$is_short" ] && [ -z "$JD_BUILD" ] && [ -z "$JD_LIFE" ] || return 0
    for file in result.json exit_file stop.json preempt.json; do
        [ ! -f "$report/$file" ] || return 0
    done
    [ ! -f "$job/messages.jsonl" ] && [ -f "$report/names" ] && [ ! -s "$report/names" ] || return 0
    ln -s "said/1/$1/${ok:-0}/$last$entries" "$report/short"
}

# measure_disk: a disk that is full now explains what has failed; from here on the report has room
measured=
no_need_to_measure() {
    measured=1
    release
}

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
    tell_shortly "$1"
    exit "$1"
}

# The output's files with sha256 and size, where the image has the programs; else the near side reads them.
list_output() {
    [ -d "$job/output" ] || return 0
    set -- "$job"/output/* "$job"/output/.[!.]* "$job"/output/..?*
    if [ "$*" = "$job/output/* $job/output/.[!.]* $job/output/..?*" ]; then
        : >"$report/names"
        return 0
    fi
    [ ! -e "$report/names" ] || rm -rf "$report/names" "$report/sums" "$report/sizes"
    (
        cd "$job/output" || exit 0
        find . -type f -print0 >"$report/names" || { rm -f "$report/names"; exit 0; }
        [ -s "$report/names" ] || exit 0
        # Not xargs -0: that of busybox splits names where a command line is full.
        find . -type f -exec sha256sum -- {} + >"$report/sums"
        find . -type f -exec stat -c '%s %a' -- {} + >"$report/sizes"
    )
}
