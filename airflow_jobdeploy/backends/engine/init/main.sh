# The attempt, from its begin to its report.

now
started=$now
enter starting PENDING Staging
! has_cause || cut
if [ -n "$JD_NOTHING" ]; then
    fact hint "$JD_NOTHING"
    fact status 0
    fact ok 1
    finish 0
fi
await_secrets
await_slot
wait_delay
start_meter
make_work
[ "$JD_BUILD" != up ] || { mkdir -p "$shared/alive" && : >"$shared/alive/$JD_ID"; }
! ends_resource || : >"$shared/announced"
now
[ -z "$JD_TIMEOUT" ] || deadline=$((now + JD_TIMEOUT))
began=$now
[ -z "$JD_LIFE" ] || life_end=$((now + JD_LIFE))
code=0
ok=1
last=0
while [ "$last" -lt "$JD_STEPS" ]; do
    run_step "$last" "$@"
    if ! is_ok "$last"; then
        ok=
        break
    fi
    last=$((last + 1))
done
[ "$last" -eq 0 ] || [ "$last" -lt "$JD_STEPS" ] || last=$((last - 1))
settle
if ends_resource; then
    if [ -n "$ok" ]; then take_down; else rm -f "$shared/announced"; fi
fi
if [ -n "$ok" ]; then no_need_to_measure; else measure_disk; fi
fact step "${step_name:-}"
fact status "$code"
[ -z "$ok" ] || fact ok 1
finish "$code"
