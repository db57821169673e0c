# What a container of this engine sees of the machine: its boot, its GPUs. POSIX sh, in whichever image has one.
#
#   probe.sh <seconds that a tool may take> <question>...       a question: a tool and its arguments, without quotes
#
# After the answer to each question comes a line with its exit status; 127: there is no such tool here.
set -uf
limit=$1
shift
PATH=$PATH:/usr/bin:/usr/local/bin:/usr/local/nvidia/bin:/opt/rocm/bin:/usr/lib/wsl/lib
read -r boot </proc/sys/kernel/random/boot_id && printf 'jobdeploy-boot %s\n' "$boot"

for question; do
    $question 2>&1 </dev/null &
    asked=$!
    { sleep "$limit" && kill -9 "$asked"; } 2>/dev/null &
    watch=$!
    wait "$asked" 2>/dev/null
    code=$?
    kill "$watch" 2>/dev/null
    [ "$code" -ne 137 ] || printf '\nit has not answered for %s s: is its driver hung?' "$limit"
    printf '\njobdeploy-status %s\n' "$code"
done

# The kernel's own list: for images in which the tool does not run.
set +f
for file in /proc/driver/nvidia/gpus/*/information; do
    [ -r "$file" ] || continue
    cat "$file"
    echo
done
