# Makes a derived image: this runs in a container whose files are kept as the image. POSIX sh, as root of the image.
#
#   build.sh await <seconds>      process 1: ends with the exit code of the other, or when it takes too long
#   build.sh apt | pip            makes it; what it says is what process 1 says
#
# Nobody needs to wait for it: who started it may be gone, and another finds what it has made. What is to be installed
# stands in files beside this one, never in a command.
set -u
umask 022
build=/jobdeploy/build

await() {
    waited=0
    until [ -f "$build/code" ]; do
        [ "$waited" -lt $(($1 * 5)) ] || { printf 'it took longer than %s s\n' "$1" >"$build/why"; exit 124; }
        if [ -f "$build/pid" ]; then
            read -r pid <"$build/pid"
            [ -f "$build/code" ] || kill -0 "$pid" 2>/dev/null || [ -f "$build/code" ] || exit 137
        else
            [ "$waited" -lt 150 ] || exit 111 # whoever was to begin it was killed
        fi
        sleep 0.2
        waited=$((waited + 1))
    done
    read -r code <"$build/code"
    sleep 0.3 # for what was said last to reach the log: the end of a container cuts it off
    exit "$code"
}

fail() {
    printf '%s\n' "$1" >"$build/why"
    exit 126
}

# words <file>: sets the arguments' list `list` to its lines, which hold no blanks
words() {
    list=
    while IFS= read -r line || [ -n "$line" ]; do list="$list $line"; done <"$1"
}

install_apt() {
    command -v apt-get >/dev/null 2>&1 ||
        fail "the image has no apt-get: apt_packages are for images of Debian, Ubuntu and what is made of them"
    export DEBIAN_FRONTEND=noninteractive
    words "$build/packages"
    apt-get -q update || exit
    # shellcheck disable=SC2086  # names of packages, which are checked when a spec is read
    apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 install -- $list || exit
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
}

# A virtual environment that sees the image's own packages: what is installed goes over them, and takes none away.
install_pip() {
    read -r place <"$build/place"
    read -r python <"$build/python" || :
    wanted=$(tr '\n' ' ' <"$build/requirements.txt")
    python=${python:-$(command -v python3 || command -v python || echo python3)}
    command -v -- "$python" >/dev/null 2>&1 ||
        fail "$python was not found in the image, which is to install: $wanted"
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER VIRTUAL_ENV
    bare=
    ! "$python" -m pip --version >/dev/null 2>&1 || bare=--without-pip
    # shellcheck disable=SC2086  # an option, or nothing
    "$python" -m venv --system-site-packages $bare "$place" ||
        fail "$python of the image has neither pip nor what makes environments (Debian: python3-venv); to install: $wanted"
    set -- --requirement "$build/requirements.txt"
    [ ! -f "$build/constraints.txt" ] || set -- "$@" --constraint "$build/constraints.txt"
    export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
    "$place/bin/python" -m pip install --progress-bar off "$@"
}

# What is printed, also kept: an engine may lose the end of a log when its container ends.
told() {
    if command -v tee >/dev/null 2>&1 && command -v tail >/dev/null 2>&1; then
        tee "$build/.said"
        tail -c 1500 "$build/.said" >"$build/said"
        rm -f "$build/.said"
    else
        cat
    fi
}

make() {
    echo $$ >"$build/pid"
    cd /
    {
        ("install_$1")
        printf '%s\n' "$?" >"$build/.code"
    } 2>&1 | told
    mv "$build/.code" "$build/code"
}

case $1 in
await) await "$2" ;;
*) make "$1" </dev/null >/proc/1/fd/1 2>&1 ;;
esac
