# A command as a child, in a process of its own: its output is log, its exit status comes by a file and a signal.

# keep_status <code>: also on a full disk
keep_status() {
    printf '%s\n' "$1" >"$report/.status" || { release; printf '%s\n' "$1" >"$report/.status"; }
}

# run <command>: to its end, which sets `code`; a reason to end now ends it, and us
run() {
    [ ! -f "$report/.status" ] || rm -f "$report/.status"
    (
        trap : TERM INT HUP QUIT USR1 USR2
        ("$@") </dev/null 3>&- >&4 2>&4 4>&-
        keep_status "$?"
        kill -s USR2 "$$"
    ) 4>&3 3>&- &
    runner=$!
    while [ ! -s "$report/.status" ]; do
        ! has_cause || [ -s "$report/.status" ] || cut
        kill -s 0 "$runner" 2>/dev/null || [ -s "$report/.status" ] || break
        patience
        [ -s "$report/.status" ] || doze "$patience"
    done
    cause=
    await_child "$runner"
    runner=
    code=137
    [ ! -s "$report/.status" ] || read -r code <"$report/.status"
}
runner=
