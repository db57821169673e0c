# What comes before the first step: a retry's delay, secrets, a slot of the pool, the project's copy.

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

# Secrets are handed over when we run, into memory: they lie on no disk. Whoever has them may have died meanwhile.
await_secrets() {
    [ -n "$JD_HANDOVER" ] || return 0
    enter claimed PENDING Staging
    now
    until=$((now + JD_HANDOVER))
    pause=3
    while [ ! -f /jobdeploy/secrets/.complete ]; do
        ! has_cause || cut
        [ "$now" -lt "$until" ] || no_secrets
        doze "$pause"
        [ "$pause" -ge 50 ] || pause=$((pause + 1))
    done
    enter starting PENDING Staging
    for file in /jobdeploy/secrets/*; do
        [ -f "$file" ] || continue
        value=$(cat "$file"; printf x)
        export "${file##*/}=${value%x}"
    done
    rm -f /jobdeploy/secrets/* /jobdeploy/secrets/.complete
}

no_secrets() {
    [ -z "$JD_SETUP" ] || { cause=timeout limit=setup_timeout limit_s=$JD_SETUP; cut; }
    fact setup "its secrets were not handed over within $((JD_HANDOVER / 100)) s: whoever submitted it is gone"
    finish 126
}

# Who has secrets holds them in memory, and so runs while it waits for a slot of its pool.
await_slot() {
    [ -n "$JD_HELD" ] || return 0
    enter waiting PENDING Queued
    now
    queued=$now
    while [ ! -f "$report/go" ]; do
        ! has_cause || cut
        [ -z "$JD_SCHEDULE" ] || [ $((now - queued)) -lt "$JD_SCHEDULE" ] ||
            { cause=timeout limit=schedule_timeout limit_s=$JD_SCHEDULE; cut; }
        doze "$longest_nap"
    done
    # which GPUs it was granted
    variable=
    { read -r variable && read -r gpus && read -r told; } <"$report/go" || told=${gpus:-}
    [ -z "$variable" ] || export "$variable=$told" "JOBDEPLOY_GPUS=$gpus"
    enter starting PENDING Staging
}

# Entry by entry: the folder itself is root's, and another user may write into it, but not change its mode or times.
copy_project() {
    for entry in /jobdeploy/bundle/tree/* /jobdeploy/bundle/tree/.[!.]* /jobdeploy/bundle/tree/..?*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        cp -R -P -p "$entry" "$JD_WORK/" || return 1
        [ -L "$entry" ] || chmod -R u+rwX "$JD_WORK/${entry##*/}" || return 1
    done
}

make_work() {
    if [ -d /jobdeploy/bundle/tree ] && [ -z "$JD_NOCOPY" ]; then
        mkdir -p "$JD_WORK" && copy_project ||
            { fact setup "the project could not be copied: $(tail -n 1 "$report/complaints")"; finish 126; }
    fi
    [ -d "$JD_WORK" ] ||
        { fact setup "workdir $JD_WORK does not exist in the image: make it there, or send a project"; finish 126; }
}
