#!/bin/sh
# Writes bindings/artifacts/*.json (ABI and creation code) from a fresh build; with --check, fails when they differ from it.
set -eu
cd "$(dirname "$0")/.."
script/foundry forge build --quiet src script
exec node script/artifacts.mjs "$@"
