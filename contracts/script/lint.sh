#!/bin/sh
# forge fmt and forge lint over the contract and the scripts; fails on any finding. forge lint leaves artifacts without code
# behind, so it gets an output directory of its own.
set -eu
cd "$(dirname "$0")/.."
script/foundry forge fmt --check
findings="$(FOUNDRY_OUT=cache/lint/out FOUNDRY_CACHE_PATH=cache/lint/cache script/foundry forge lint --quiet src script 2>&1)"
[ -z "$findings" ] || { echo "$findings" >&2; exit 1; }
