# Orders from outside, and limits: why the attempt is to end now.

cause=
checked=
grace=$JD_GRACE
signal=$JD_SIGNAL

# read_order <name>: its grace and signal, where it gives them
read_order() {
    [ -f "$report/$1.order" ] || return 1
    {
        read -r given_grace
        read -r given_signal
    } <"$report/$1.order" || :
    [ -z "$given_grace" ] || grace=$given_grace
    [ -z "$given_signal" ] || signal=$given_signal
}

# has_cause: is there a reason to end now? Sets `cause`.
has_cause() {
    now
    if read_order stop; then
        cause=stop
    elif read_order preempt; then
        cause=preempt
    elif [ -n "$terminated" ]; then
        cause=terminated
    elif [ "$JD_BUILD" = up ] && [ -f "$shared/takedown" ]; then
        cause=takedown
    elif [ -n "${deadline:-}" ] && [ "$now" -ge "$deadline" ]; then
        cause=timeout limit=timeout limit_s=$JD_TIMEOUT
    elif [ -n "${step_deadline:-}" ] && [ "$now" -ge "$step_deadline" ]; then
        cause=timeout limit=timeout limit_s=$step_timeout
    elif [ -n "${life_end:-}" ] && [ "$now" -ge "$life_end" ] && is_life_over; then
        cause=timeout limit=life_span limit_s=$life
    elif [ -n "$JD_LEASE" ] && ! is_wanted; then
        cause=orphan
    fi
    [ -n "$cause" ]
}

# is_life_over: also with what was added to its life_span since? Each addition is a file of the report.
is_life_over() {
    life=$JD_LIFE
    for added in "$report"/life.*; do
        more=
        [ ! -f "$added" ] || read -r more <"$added" || :
        case $more in
            '' | *[!0-9]*) ;;
            *) life=$((life + more)) ;;
        esac
    done
    life_end=$((began + life))
    [ "$now" -ge "$life_end" ]
}

# Somebody who waits for the job changes its lease's text now and then.
is_wanted() {
    lease=
    [ ! -f "/jobdeploy/leases/$JD_ID" ] || read -r lease <"/jobdeploy/leases/$JD_ID" || :
    if [ "$lease" != "$known_lease" ] || [ -z "${renewed:-}" ]; then
        known_lease=$lease
        renewed=$now
    fi
    [ $((now - renewed)) -le "$JD_LEASE" ]
}
known_lease=

# patience: sets `patience` to how long nothing can happen of itself
patience() {
    now
    patience=$longest_nap
    for time in "${deadline:-}" "${step_deadline:-}" "${life_end:-}"; do
        [ -z "$time" ] || [ $((time - now)) -ge "$patience" ] || patience=$((time - now))
    done
    [ -z "$JD_LEASE" ] || [ "$patience" -le $((JD_LEASE / 6 + 1)) ] || patience=$((JD_LEASE / 6 + 1))
    [ "$JD_BUILD" != up ] || [ "$patience" -le 50 ] || patience=50
    [ "$patience" -gt 0 ] || patience=1
}

# cut: the attempt ends now, by `cause`
cut() {
    if [ "$cause" = preempt ]; then
        told=0
        [ ! -f "$job/messages.jsonl" ] || told=$(($(wc -c <"$job/messages.jsonl")))
        enter running RUNNING Preempted
    fi
    measure_disk
    fact cause "$cause"
    [ "$cause" != timeout ] || fact limit "$limit"
    [ "$cause" != timeout ] || fact limit_s "$limit_s"
    [ "$cause" != orphan ] || fact orphaned_s "$(((now - renewed) / 100))"
    end_all "$signal" "$grace"
    code=143
    [ ! -s "$report/.status" ] || read -r code <"$report/.status"
    [ -n "$code" ] || code=143
    fact step "${step_name:-}"
    [ ! -s "$report/.status" ] || fact status "$code"
    finish "$code"
}
