#!/bin/sh
# Write constraints.txt anew: one version of every package, with markers where Python versions differ. Needs uv.
# Arguments go to uv: scripts/pin.sh --upgrade takes the newest versions, --upgrade-package NAME only one.
set -eu
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --extra dev --extra docker --universal --python-version 3.10 \
    --no-annotate --no-header --no-emit-index-url --output-file constraints.txt --quiet "$@"
{
    echo "# Exact versions of everything that runs and tests this project, for Python 3.10 to 3.13. Made by scripts/pin.sh."
    cat constraints.txt
} >constraints.txt.new
mv constraints.txt.new constraints.txt
