#!/bin/sh
# Installs the peers of the stdio benchmark into .bench at the top of the project; does nothing when
# these versions are there already.
set -eu
python=$1
npm_version=6.7.19
pypi_version=0.13.0
cd "$(dirname "$0")/.."
[ "$(cat .bench/installed 2>/dev/null || true)" = "$npm_version $pypi_version" ] && exit 0
command -v npm >/dev/null || {
    echo "npm is needed for the stdio benchmark (Debian: apt install npm)" >&2
    exit 1
}
rm -rf .bench
mkdir .bench
"$python" -m venv .bench/venv
.bench/venv/bin/pip install --quiet --disable-pip-version-check "mcp-proxy==$pypi_version"
npm install --prefix .bench --no-audit --no-fund --loglevel=error "mcp-proxy@$npm_version"
echo "$npm_version $pypi_version" > .bench/installed
