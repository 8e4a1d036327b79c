#!/bin/sh
# Writes bindings/artifacts/*.json (ABI and creation code) and snapshots/storage-layout.json from a fresh build; with --check,
# fails when they differ from it, or when the interfaces' documentation names other costs than the measured ones.
set -eu
cd "$(dirname "$0")/.."
# An output directory of its own: nothing that tests leave behind gets into the artifacts, and both may run at once.
export FOUNDRY_OUT=cache/artifacts/out FOUNDRY_CACHE_PATH=cache/artifacts/cache
[ "${1:-}" != --check ] || node script/costs.mjs
script/foundry forge build --quiet --extra-output storageLayout -- src script
exec node script/artifacts.mjs "$@"
