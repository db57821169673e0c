#!/bin/sh
# Install the programs that some tests need, where that is possible without asking: root on Debian or Ubuntu.
# Elsewhere those tests are skipped, each with its reason (with CI=true a skip is a failure: see tests/conftest.py).
set -eu

missing=
command -v sshd >/dev/null 2>&1 || [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
command -v ssh >/dev/null 2>&1 || missing="$missing openssh-client"
command -v tmux >/dev/null 2>&1 || missing="$missing tmux"
# For the scaled-out Airflow, and the file that describes it. (Debian keeps PostgreSQL's programs out of PATH.)
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v docker-compose >/dev/null 2>&1 || docker compose version >/dev/null 2>&1 || missing="$missing docker-compose"
# For hosts of network namespaces, and filesystems whose files share blocks, which only root can make.
if [ "$(id -u)" = 0 ]; then
    command -v ip >/dev/null 2>&1 || [ -x /usr/sbin/ip ] || missing="$missing iproute2"
    command -v iptables >/dev/null 2>&1 || [ -x /usr/sbin/iptables ] || missing="$missing iptables"
    command -v mkfs.xfs >/dev/null 2>&1 || [ -x /usr/sbin/mkfs.xfs ] || missing="$missing xfsprogs"
    command -v mkfs.btrfs >/dev/null 2>&1 || [ -x /usr/sbin/mkfs.btrfs ] || missing="$missing btrfs-progs"
    # For engines: each starts a dockerd of its own, whose image is made of a busybox.
    command -v dockerd >/dev/null 2>&1 || [ -x /usr/sbin/dockerd ] || missing="$missing docker.io"
    command -v busybox >/dev/null 2>&1 || missing="$missing busybox-static"
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "==> installing$missing"
    # policy-rc.d keeps the packages from starting a server on this machine: the tests start their own, on free ports.
    apt-get update -qq || true
    # shellcheck disable=SC2086  # a list of package names
    if RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
    echo "==> could not install$missing: the tests that need them cannot run" >&2
    exit 0
fi
echo "==> not installed:$missing. Tests that need them are skipped. To run them: sudo apt-get install -y$missing"
