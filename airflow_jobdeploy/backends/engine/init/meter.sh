# A log with a cap: the engine drops its head, we count what goes through.

meter=
start_meter() {
    [ -n "$JD_CAP" ] || return 0
    mkfifo "$job/pipe"
    count_log <"$job/pipe" >&3 &
    meter=$!
    exec 3>"$job/pipe"
}

count_log() {
    trap '' TERM INT HUP QUIT USR1 USR2
    total=0
    blocks=$((JD_CAP / 8 / 4096))
    [ "$blocks" -gt 0 ] || blocks=1
    mkfifo "$report/.counted"
    while :; do
        wc -c <"$report/.counted" >"$report/.count" &
        dd bs=4096 count="$blocks" | tee "$report/.counted"  # each read is passed on at once
        wait
        read -r size <"$report/.count"
        [ "$size" -gt 0 ] || break
        total=$((total + size))
        printf '\001jobdeploy %s %s\n' "$JD_ID" "$total"
    done
    rm -f "$report/.counted" "$report/.count"
}

end_meter() {
    [ -n "$meter" ] || return 0
    exec 3>&-
    await_child "$meter"
}
