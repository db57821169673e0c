#!/bin/sh
# The scaled-out Airflow of docker-compose.yaml. Usage: scripts/compose.sh env|check|up
#
# env: write .env with a random value for each secret, for the owner only; one that is there stays as it is.
# check: let docker compose read the file, with values that are thrown away. up: env, then start it in the background.
set -eu
umask 077
cd "$(dirname "$0")/.."

secrets='POSTGRES_PASSWORD REDIS_PASSWORD API_SECRET_KEY JWT_SECRET ADMIN_PASSWORD'

die() { printf 'compose: %s\n' "$*" >&2; exit 1; }

random_hex() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# As Fernet wants it: 32 bytes in base64 for URLs.
random_fernet_key() { head -c 32 /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'; }

write_env() {
    for name in $secrets; do
        printf '%s=%s\n' "$name" "$(random_hex)"
    done >"$1"
    printf 'FERNET_KEY=%s\n' "$(random_fernet_key)" >>"$1"
}

make_env() {
    if [ -e .env ]; then
        echo ".env is there and stays as it is"
        return
    fi
    fresh=$(mktemp .env.XXXXXX)
    write_env "$fresh"
    # Not over one that another call has just made.
    ln "$fresh" .env 2>/dev/null || echo ".env was made meanwhile and stays as it is"
    rm -f "$fresh"
    echo ".env has the secrets; the password of user admin is ADMIN_PASSWORD in it"
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif command -v docker-compose >/dev/null 2>&1; then
        docker-compose "$@"
    else
        die "neither 'docker compose' nor docker-compose is here. On Debian or Ubuntu: sudo apt-get install -y docker-compose"
    fi
}

check() {
    values=$(mktemp)
    trap 'rm -f "$values"' EXIT
    write_env "$values"
    compose --env-file "$values" config --quiet
    echo "docker-compose.yaml is valid"
}

case ${1:-} in
    env) make_env ;;
    check) check ;;
    up)
        make_env
        compose up --build --detach
        echo "Airflow comes up at http://$(compose port api-server 8080): user admin, password ADMIN_PASSWORD of .env"
        ;;
    *) echo "usage: $0 env|check|up, not '${1:-}'" >&2; exit 2 ;;
esac
