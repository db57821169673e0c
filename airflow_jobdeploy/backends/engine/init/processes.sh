# The processes of the container: process 1 reaps and ends them all.

# others: sets `others` to the pids, and `names` to what they are called, of all processes but ours
others() {
    others=
    names=
    count=0
    for place in /proc/[0-9]*; do
        pid=${place#/proc/}
        [ "$pid" != 1 ] && [ "$pid" != "$$" ] || continue
        { read -r line <"$place/stat"; } 2>/dev/null || continue
        rest=${line##*) }
        [ "${rest%% *}" != Z ] || continue
        parent=${rest#* }
        [ -z "$meter" ] || { [ "$pid" != "$meter" ] && [ "${parent%% *}" != "$meter" ]; } || continue
        name=${line#*\(}
        others="$others $pid"
        count=$((count + 1))
        [ "$count" -gt 20 ] || names="$names${names:+, }$pid ${name%)*}"
    done
}

# end_all <signal> <grace>: signal, grace, KILL, until no process is left but us
end_all() {
    kill -s "$1" -- -1 2>/dev/null
    now
    until=$((now + $2))
    pause=2
    while others; [ -n "$others" ]; do
        now
        [ "$now" -lt "$until" ] || break
        if [ "$cause" = preempt ] && has_checkpoint; then
            fact checkpointed 1
            checkpointed=1
            break
        fi
        doze "$pause"
        [ "$pause" -ge 10 ] || pause=$((pause + 1))
        # a second order may have shortened the grace
        [ "$cause" != stop ] || read_order stop
        [ "$cause" != stop ] || [ "$grace" -ge "$2" ] || until=$((until - $2 + grace))
        [ "$cause" != stop ] || set -- "$1" "$grace"
    done
    while others; [ -n "$others" ]; do
        # shellcheck disable=SC2086  # a list of pids; one by one, where the process that counts the log must live on
        if [ -n "$meter" ]; then kill -s KILL $others 2>/dev/null; else kill -s KILL -- -1 2>/dev/null; fi
        doze 2
    done
    if [ "$cause" = preempt ] && [ -z "${checkpointed:-}" ] && has_checkpoint; then
        fact checkpointed 1
    fi
    [ -z "$runner" ] || await_child "$runner"
}

has_checkpoint() {
    [ -f "$job/messages.jsonl" ] || return 1
    tail -c "+$((told + 1))" "$job/messages.jsonl" | grep -q '"checkpoint"'
}
