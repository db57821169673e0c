# What a command leaves: it is waited for, or ended.

settle() {
    others
    [ -n "$others" ] || return 0
    if [ "$JD_LEFTOVERS" = wait ] && [ -n "$ok" ]; then
        wait_leftovers
        return 0
    fi
    now
    until=$((now + (grace < 100 ? grace : 100)))
    while others; [ -n "$others" ] && [ "$now" -lt "$until" ]; do
        doze 5
        now
    done
    [ -n "$others" ] || return 0
    fact left_behind "$names"
    printf '\n[left behind by the command, stopped: %s]\n' "$names" >&3
    end_all "$signal" "$grace"
}

wait_leftovers() {
    while others; [ -n "$others" ]; do
        left=$count
        enter leftovers RUNNING Leftovers
        ! has_cause || cut
        patience
        [ "$patience" -le 100 ] || patience=100
        doze "$patience"
    done
    left=
    if [ -s "$report/exit_file" ]; then
        read -r code <"$report/exit_file" || :
        ok=
        ! is_ok "$last" || ok=1
    elif [ -f "$shared/announced" ]; then
        cause=takedown
        cut
    else
        fact exit_unknown 1
    fi
}
