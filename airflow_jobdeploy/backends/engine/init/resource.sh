# Builds that end their resource: the `up` sees a mark that they leave.

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
