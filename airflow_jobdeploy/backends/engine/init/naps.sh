# Time, and waiting for what a signal tells.
#
# A nap is a `sleep` that the traps end. It gets KILL, never TERM: between fork and exec a child of a shell still has
# the shell's own handlers, so that a signal which is trapped here is lost there, and the nap lasts to its end. The
# longest nap is short nevertheless, for what no signal tells: a child that the kernel killed, and shells that may block
# on a `wait` just after a signal came.

woken=
terminated=
nap=
longest_nap=500
trap 'woken=1; end_nap' USR1 USR2
trap 'terminated=1; woken=1; end_nap' TERM

now() {
    read -r up _ </proc/uptime
    now=${up%.*}${up#*.}
    now=${now#0}
}

# doze <hundredths>: until something happens, at most so long
doze() {
    [ "$1" -gt 0 ] || return 0
    [ "$1" -le "$longest_nap" ] || set -- "$longest_nap"
    sleep "$(($1 / 100)).$(($1 / 10 % 10))$(($1 % 10))" &
    nap=$!
    [ -n "$woken" ] || wait "$nap" 2>/dev/null
    end_nap
    # A signal ends a `wait` before its child has ended.
    while kill -s 0 "$nap" 2>/dev/null; do wait "$nap" 2>/dev/null; done
    nap=
    woken=
}

end_nap() {
    [ -z "$nap" ] || kill -s KILL "$nap" 2>/dev/null
}

# await_child <pid>: its end, whatever signals come meanwhile
await_child() {
    while kill -s 0 "$1" 2>/dev/null; do wait "$1" 2>/dev/null; done
}
