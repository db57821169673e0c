# Process 1 of a job's container: POSIX sh, for whatever shell the image has (dash, busybox, bash).
#
# It runs the steps, once ever, hands on orders and limits as signals, waits for what a command leaves, and reports
# below /jobdeploy/job/report. It needs nobody: the engine and Airflow may be away. Times are hundredths of a second of
# the kernel's uptime, which no change of a clock moves.
#
# What is to be done stands in files that were made for this job: `conf` (assignments), `steps/<n>/run` (calls of the
# step_ functions below, every word quoted).
set -u
umask 077
job=/jobdeploy/job
report=$job/report
shared=/jobdeploy/resource
. "$job/conf"

if ! mkdir "$report/begun" 2>/dev/null; then
    # The engine was asked twice to start the container: what has run is not run again.
    code=137
    [ ! -f "$report/code" ] || read -r code <"$report/code"
    exit "$code"
fi
exec 3>&1 >>"$report/complaints" 2>&1

woken=
nap=
runner=
trap 'woken=1; [ -z "$nap" ] || kill "$nap" 2>/dev/null' USR1 USR2
trap 'terminated=1; woken=1; [ -z "$nap" ] || kill "$nap" 2>/dev/null' TERM
terminated=

# -- telling ----------------------------------------------------------------------------------------------------------

# enter <phase> <status> <reason>: rewrites the state, and adds to the history when it has changed
entered=
enter() {
    if [ "$entered" != "$2 $3" ]; then
        entered="$2 $3"
        printf '%s %s %s\n' "$(date +%s)" "$2" "${3:--}" >>"$report/history"
    fi
    printf '%s\n' "$1" "$2" "$3" "${step_name:-}" "${left:-}" >"$report/.state"
    mv "$report/.state" "$report/state"
}

# fact <key> <value>: a line of the report of the end
fact() {
    printf '%s=%s\n' "$1" "$2" >>"$report/facts"
}

# finish <code>: the report is complete; the container ends with the command's own code
finish() {
    [ "$JD_BUILD" != up ] || rm -f "$shared/alive/$JD_ID"
    end_meter
    list_output
    printf '%s\n' "$1" >"$report/code"
    : >"$report/end"
    exit "$1"
}

# The output's files with sha256 and size, where the image has the programs; else the near side reads them.
list_output() {
    [ -d "$job/output" ] || return 0
    rm -rf "$report/names" "$report/sums" "$report/sizes"
    (
        cd "$job/output" || exit 0
        find . -type f -print0 >"$report/names" || exit 0
        [ -s "$report/names" ] || exit 0
        xargs -0 sha256sum -- <"$report/names" >"$report/sums"
        xargs -0 stat -c '%s %a' -- <"$report/names" >"$report/sizes"
    )
}

# -- a log with a cap: the engine drops its head, we count ----------------------------------------------------------------

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
    wait "$meter"
}

# -- time -------------------------------------------------------------------------------------------------------------

now() {
    read -r up _ </proc/uptime
    now=${up%.*}${up#*.}
    now=${now#0}
}

# doze <hundredths>: until something happens, at most so long
doze() {
    [ "$1" -gt 0 ] || return 0
    sleep "$(($1 / 100)).$(($1 / 10 % 10))$(($1 % 10))" &
    nap=$!
    [ -n "$woken" ] || wait "$nap"
    kill "$nap" 2>/dev/null
    wait "$nap" 2>/dev/null
    nap=
    woken=
}

# -- processes --------------------------------------------------------------------------------------------------------

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
    [ -z "$runner" ] || wait "$runner" 2>/dev/null
}

has_checkpoint() {
    [ -f "$job/messages.jsonl" ] || return 1
    tail -c "+$((told + 1))" "$job/messages.jsonl" | grep -q '"checkpoint"'
}

# -- orders and limits ------------------------------------------------------------------------------------------------

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
    elif [ -n "$JD_LEASE" ] && ! is_wanted; then
        cause=orphan
    fi
    [ -n "$cause" ]
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
    patience=30000
    for time in "${deadline:-}" "${step_deadline:-}"; do
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
    fact cause "$cause"
    [ "$cause" != timeout ] || fact limit "$limit"
    [ "$cause" != timeout ] || fact limit_s "$limit_s"
    [ "$cause" != orphan ] || fact orphaned_s "$(((now - renewed) / 100))"
    end_all "$signal" "$grace"
    code=143
    [ ! -f "$report/.status" ] || read -r code <"$report/.status"
    [ -n "$code" ] || code=143
    fact step "${step_name:-}"
    [ ! -f "$report/.status" ] || fact status "$code"
    finish "$code"
}

# -- before the command -----------------------------------------------------------------------------------------------

setup_failed() {
    printf '%s\n' "$1" >"$report/setup"
    exit 126
}

wait_delay() {
    [ -n "$JD_DELAY" ] || return 0
    enter waiting PENDING Backoff
    now
    ready=$((now + JD_DELAY))
    while [ "$now" -lt "$ready" ]; do
        ! has_cause || cut
        doze $((ready - now))
        now
    done
}

read_secrets() {
    for file in "$job"/secrets/*; do
        [ -f "$file" ] || continue
        value=$(cat "$file"; printf x)
        export "${file##*/}=${value%x}"
    done
    rm -rf "$job/secrets"
}

make_work() {
    if [ -d /jobdeploy/bundle/tree ] && [ -z "$JD_NOCOPY" ]; then
        mkdir -p "$JD_WORK" && cp -R -P -p /jobdeploy/bundle/tree/. "$JD_WORK/" && chmod -R u+rwX "$JD_WORK" ||
            { fact setup "the project could not be copied: $(tail -n 1 "$report/complaints")"; finish 126; }
    fi
    [ -d "$JD_WORK" ] ||
        { fact setup "workdir $JD_WORK does not exist in the image: make it there, or send a project"; finish 126; }
}

# -- the steps; these run in a process of their own -------------------------------------------------------------------

place() {
    case $1 in */*) mkdir -p "./${1%/*}" || setup_failed "cannot make the folder of $1 below $JD_WORK" ;; esac
    [ ! -L "./$1" ] || setup_failed "$1 below $JD_WORK is a link, a file is to be written there: remove it"
    [ ! -d "./$1" ] || setup_failed "$1 below $JD_WORK is a directory, a file is to be written there"
    cp "$step/content" "./$1.new" && chmod "$2" "./$1.new" && mv "./$1.new" "./$1" ||
        setup_failed "cannot write $1 below $JD_WORK"
}

known() {
    command -v -- "$1" >/dev/null 2>&1 || setup_failed "$1 was not found in the image (looked on PATH $PATH)"
}

# by_shebang <path> <args>: run it by its first line; returns when it has none
by_shebang() {
    first=
    IFS= read -r first <"$1" || :
    case $first in '#!'*) ;; *) return 0 ;; esac
    first=${first#'#!'}
    while [ "$first" != "${first# }" ]; do first=${first# }; done
    program=${first%% *}
    option=${first#"$program"}
    while [ "$option" != "${option# }" ]; do option=${option# }; done
    command -v -- "$program" >/dev/null 2>&1 ||
        setup_failed "the interpreter $program of the #! line of $1 is not in the image"
    [ -z "$option" ] || exec "$program" "$option" "$@"
    exec "$program" "$@"
}

step_file() {
    place "$1" 600
    exit 0
}

step_script() {
    place "$1" 700
    by_shebang "./$1"
    exec /bin/sh "./$1"
}

step_shell() {
    exec /bin/sh "$step/content"
}

step_entry() {
    python=$1
    path=./$2
    shift 2
    [ -f "$path" ] || setup_failed "entry_script ${path#./} is not there: looked in $JD_WORK"
    by_shebang "$path" "$@"
    case $path in
    *.py)
        [ -z "$python" ] || { known "$python"; exec "$python" "$path" "$@"; }
        ! command -v python3 >/dev/null 2>&1 || exec python3 "$path" "$@"
        known python
        exec python "$path" "$@"
        ;;
    *.sh) exec /bin/sh "$path" "$@" ;;
    esac
    [ -x "$path" ] || setup_failed "entry_script ${path#./} cannot be run: it has no #! line, is neither .py nor .sh"
    exec "$path" "$@"
}

# main(dataset_dir, model_output_dir) of main.py at the working directory's root
step_main() {
    python=$1
    shift
    [ -f main.py ] || setup_failed "main.py is not at the root of the project: looked in $JD_WORK"
    [ -n "$python" ] || python=$(command -v python3 || command -v python || echo python3)
    known "$python"
    exec "$python" "$job/call_main.py" "${JOBDEPLOY_DATASET_DIR:-$job/no_dataset}" "$JOBDEPLOY_OUTPUT_DIR" "$@"
}

step_argv() {
    [ "$#" -gt 0 ] || setup_failed "there is nothing to run: neither the job nor its image has a command"
    known "$1"
    exec "$@"
}

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
    rm -f "$report/.status" "$report/setup"
    enter running RUNNING ''
    (
        trap : TERM INT HUP QUIT USR1 USR2
        (
            cd "$JD_WORK" || exit 126
            . "$step/run"
        ) </dev/null 3>&- >&4 2>&4 4>&-
        printf '%s\n' "$?" >"$report/.status.new"
        mv "$report/.status.new" "$report/.status"
        kill -s USR2 "$$"
    ) 4>&3 3>&- &
    runner=$!
    while [ ! -f "$report/.status" ]; do
        ! has_cause || [ -f "$report/.status" ] || cut
        kill -0 "$runner" 2>/dev/null || [ -f "$report/.status" ] || break
        patience
        [ -f "$report/.status" ] || doze "$patience"
    done
    cause=
    wait "$runner" 2>/dev/null
    runner=
    step_deadline=
    code=137
    [ ! -f "$report/.status" ] || read -r code <"$report/.status"
    if [ -f "$report/setup" ]; then
        fact step "$step_name"
        fact setup "$(cat "$report/setup")"
        finish 126
    fi
}

# is_ok <n>: does the step count `code` as success?
is_ok() {
    [ "$code" != 0 ] || return 0
    read -r codes <"$job/steps/$1/ok" || :
    case " $codes " in *" $code "*) return 0 ;; esac
    return 1
}

# -- what a command left ----------------------------------------------------------------------------------------------

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

# -- taking down ------------------------------------------------------------------------------------------------------

ends_resource() {
    [ "$JD_BUILD" = down ] || [ "$JD_BUILD" = purge ]
}

# After the script: the `up` sees the mark, and ends by itself; a container that was killed cannot tell.
take_down() {
    : >"$shared/takedown"
    now
    until=$((now + JD_GRACE + 1500))
    while [ -n "$(ls "$shared/alive" 2>/dev/null)" ] && [ "$now" -lt "$until" ]; do
        ! has_cause || cut
        doze 10
        now
    done
    : >"$shared/stopped"
    [ "$JD_BUILD" != purge ] || : >"$shared/purged"
}

# -- all of it --------------------------------------------------------------------------------------------------------

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
wait_delay
start_meter
read_secrets
make_work
[ "$JD_BUILD" != up ] || { mkdir -p "$shared/alive" && : >"$shared/alive/$JD_ID"; }
! ends_resource || : >"$shared/announced"
now
[ -z "$JD_TIMEOUT" ] || deadline=$((now + JD_TIMEOUT))
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
fact step "${step_name:-}"
fact status "$code"
[ -z "$ok" ] || fact ok 1
finish "$code"
