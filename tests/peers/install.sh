#!/bin/sh
# Installs the Node peers into .peers at the top of the project; does nothing when the ones that
# package-lock.json names are there already. Exits with 1, and says what to do, where npm is missing.
set -eu
cd "$(dirname "$0")"
target=../../.peers
sum=$(cat package.json package-lock.json | sha256sum | cut -d' ' -f1)
[ "$(cat "$target/installed" 2>/dev/null || true)" = "$sum" ] && exit 0
command -v npm >/dev/null || {
    echo "npm is needed for the tests with real MCP peers (Debian: apt install npm)" >&2
    exit 1
}
mkdir -p "$target"
rm -f "$target/installed"
cp package.json package-lock.json "$target"
cd "$target"
npm ci --no-audit --no-fund --loglevel=error
# The conformance suite dies at import on an older Node than 22 (it imports fs.globSync).
node_modules/node/bin/node --eval 'process.exit(parseInt(process.versions.node) < 22 ? 1 : 0)'
echo "$sum" > installed
