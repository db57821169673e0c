# The steps, one after the other.

# run_step <n> <the image's own command>: sets `code`
run_step() {
    step=$job/steps/$1
    shift
    read -r step_name <"$step/name" || :
    step_timeout=
    step_deadline=
    [ ! -f "$step/timeout" ] || read -r step_timeout <"$step/timeout"
    now
    [ -z "$step_timeout" ] || step_deadline=$((now + step_timeout))
    [ ! -f "$report/setup" ] || rm -f "$report/setup"
    enter running RUNNING ''
    run in_work "$@"
    step_deadline=
    if [ -f "$report/setup" ]; then
        fact step "$step_name"
        fact setup "$(cat "$report/setup")"
        finish 126
    fi
}

# in_work <the image's own command>: what `run` makes a process of
in_work() {
    cd "$JD_WORK" || exit 126
    . "$step/run"
}

# is_ok <n>: does the step count `code` as success?
is_ok() {
    [ "$code" != 0 ] || return 0
    read -r codes <"$job/steps/$1/ok" || :
    case " $codes " in *" $code "*) return 0 ;; esac
    return 1
}
