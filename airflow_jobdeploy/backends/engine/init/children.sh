# A command as a child, in a process of its own: its output is log, its exit status comes by a file and a signal.

# keep_status <code>: also on a full disk
keep_status() {
    printf '%s\n' "$1" >"$report/.status.new" || { release; printf '%s\n' "$1" >"$report/.status.new"; }
    mv "$report/.status.new" "$report/.status"
}

# run <command>: to its end, which sets `code`; a reason to end now ends it, and us
run() {
    rm -f "$report/.status"
    (
        trap : TERM INT HUP QUIT USR1 USR2
        ("$@") </dev/null 3>&- >&4 2>&4 4>&-
        keep_status "$?"
        kill -s USR2 "$$"
    ) 4>&3 3>&- &
    runner=$!
    while [ ! -f "$report/.status" ]; do
        ! has_cause || [ -f "$report/.status" ] || cut
        kill -s 0 "$runner" 2>/dev/null || [ -f "$report/.status" ] || break
        patience
        [ -f "$report/.status" ] || doze "$patience"
    done
    cause=
    await_child "$runner"
    runner=
    code=137
    [ ! -f "$report/.status" ] || read -r code <"$report/.status"
}
runner=
