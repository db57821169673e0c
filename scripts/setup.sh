#!/bin/sh
# Make .venv and install the project into it. Usage: scripts/setup.sh [run|dev]
#
# run: what the demo and Airflow need, with Docker engines as workers. dev (the default): also what the tests need.
# With uv where it is present, else with python3 -m venv and pip. A second call does nothing until
# pyproject.toml, constraints.txt or this file changes. PYTHON=python3.12 chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

level=${1:-dev}
case $level in
    run) target=.[docker] ;;
    dev) target=.[dev,docker] ;;
    *) echo "usage: $0 [run|dev], not '$level'" >&2; exit 2 ;;
esac
venv=.venv
venv_python=$venv/bin/python
oldest='sys.version_info >= (3, 10)'

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c "import sys; sys.exit(not ($oldest))" >/dev/null 2>&1; }

# The content of the two files and of this one, and the place (scripts in bin/ hold absolute paths).
fingerprint() { { pwd; cat pyproject.toml constraints.txt scripts/setup.sh; } | cksum; }

is_current() {
    for done_level in "$level" dev; do
        stamp=$venv/.jobdeploy-$done_level
        [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && is_new_enough "$venv_python" && return 0
    done
    return 1
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Root on Debian or Ubuntu may install what is missing; anybody else is told the one line to run.
install_venv_module() {
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing $package"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null && return 0
    fi
    die "this Python cannot make virtual environments with pip. Run this line, then the same command again:
    sudo apt-get install -y $package"
}

make_venv_with_pip() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 || install_venv_module "$1"
    "$1" -m venv "$venv"
}

make_venv() {
    python=$(find_python) || python=
    if command -v uv >/dev/null 2>&1; then
        # uv brings a Python of its own where the machine has none that is new enough.
        say "making $venv with uv (Python ${python:-3.12, fetched by uv})"
        uv venv --quiet --allow-existing --python "${python:-3.12}" "$venv"
        return
    fi
    [ -n "$python" ] || die "Python 3.10 or newer is needed; found $(python3 --version 2>/dev/null || echo none). On Debian or Ubuntu:
    sudo apt-get install -y python3 python3-venv"
    say "making $venv ($("$python" --version))"
    make_venv_with_pip "$python"
}

install_packages() {
    say "installing packages (the first time takes a minute or two)"
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python "$venv_python" --constraint constraints.txt --editable "$target"
        return
    fi
    "$venv_python" -m pip --version >/dev/null 2>&1 || "$venv_python" -m ensurepip --upgrade >/dev/null
    "$venv_python" -m pip install --quiet --disable-pip-version-check --no-input \
        --constraint constraints.txt --editable "$target"
}

is_current && exit 0
if [ -e "$venv" ] && ! is_new_enough "$venv_python"; then
    say "$venv is broken or its Python is too old: making it anew"
    rm -rf "$venv"
fi
[ -e "$venv" ] || make_venv
install_packages
fingerprint >"$venv/.jobdeploy-$level"
say "ready: $("$venv_python" --version) in $venv"
