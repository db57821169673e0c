# What a step runs, by its kind. These functions are called by steps/<n>/run in a process of the step's own, in the
# working directory, and never return.

setup_failed() {
    printf '%s\n' "$1" >"$report/setup"
    exit 126
}

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
