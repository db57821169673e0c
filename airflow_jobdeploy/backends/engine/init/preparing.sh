# What comes before the first step: a retry's delay, secrets, the project's copy.

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
