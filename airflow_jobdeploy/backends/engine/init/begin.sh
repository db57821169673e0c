# Process 1 of a job's container: POSIX sh, for whatever shell the image has (dash, busybox, bash).
#
# It runs the steps, once ever, hands on orders and limits as signals, waits for what a command leaves, and reports
# below /jobdeploy/job/report. It needs nobody: the engine and Airflow may be away. Times are hundredths of a second of
# the kernel's uptime, which no change of a clock moves.
#
# What is to be done stands in files that were made for this job: `conf` (assignments), `steps/<n>/run` (calls of the
# functions of programs.sh, every word quoted). The files of this folder are put together in the order of script.py:
# all but begin.sh and main.sh define functions, and the variables that they keep.
set -u
umask 077
job=/jobdeploy/job
report=$job/report
shared=/jobdeploy/resource
. "$job/conf"

# Blocks that were reserved with the claim are given back, for the report of an attempt that has filled the disk.
release() {
    rm -f "$job/reserve"
}

begin() {
    mkdir "$report/begun" 2>/dev/null
}

if ! begin && { [ -d "$report/begun" ] || ! release || ! begin; }; then
    # The engine was asked twice to start the container: what has run is not run again.
    code=137
    [ ! -f "$report/code" ] || read -r code <"$report/code"
    exit "$code"
fi
exec 3>&1 >>"$report/complaints" 2>&1
