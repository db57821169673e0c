#!/bin/sh
# Make the keys of Airflow and of the hosts that are named, where there are none yet. Usage: make-keys HOST...
#
# /keys/airflow becomes ~/.ssh of Airflow (50000 in its image), /keys/HOST the keys of a host, whose jobs are 1000's.
set -eu
umask 077

new_key() { [ -s "$1" ] || ssh-keygen -q -t ed25519 -N '' -C "$2" -f "$1"; }

new_key /keys/airflow/id_ed25519 airflow
: >/keys/airflow/known_hosts.new
for host in "$@"; do
    new_key "/keys/$host/host_key" "$host"
    cp /keys/airflow/id_ed25519.pub "/keys/$host/authorized_keys"
    printf '[%s]:2222 %s\n' "$host" "$(cut -d ' ' -f 1,2 "/keys/$host/host_key.pub")" >>/keys/airflow/known_hosts.new
    chown -R 1000:1000 "/keys/$host"
done
mv /keys/airflow/known_hosts.new /keys/airflow/known_hosts
chown -R 50000:0 /keys/airflow
echo "keys of Airflow and of $*"
