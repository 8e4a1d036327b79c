#!/usr/bin/env bash
# Runs the official Python and JS SDKs of dstack, unmodified and pinned, against the simulator.
# Needs: cargo, python3 with venv, Node 20+ with npm. Any failure, a missing tool included, is an exit code.
# SIMULATOR=PATH tests that binary instead of building one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

for tool in python3 node npm; do
  command -v "$tool" >/dev/null || { echo "run-sdks: $tool is missing; install it" >&2; exit 1; }
done
if [ -z "${SIMULATOR:-}" ]; then
  (cd "$root" && cargo build --quiet -p dstack-simulator)
  SIMULATOR=$target/debug/dstack-simulator
fi
[ -x "$SIMULATOR" ] || { echo "run-sdks: $SIMULATOR is not a program" >&2; exit 1; }

# The venv is made again when the requirements change, or when an earlier run did not finish it.
venv=$target/sdk-venv
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/installed.txt"
fi
if ! cmp -s "$here/js/package-lock.json" "$here/js/node_modules/installed.json"; then
  (cd "$here/js" && npm ci --silent --no-audit --no-fund --ignore-scripts)
  cp "$here/js/package-lock.json" "$here/js/node_modules/installed.json"
fi

work=$(mktemp -d)
simulator=
finish() {
  [ -z "$simulator" ] || kill "$simulator" 2>/dev/null || true
  [ -z "$simulator" ] || wait "$simulator" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# An SDK of dstack 0.5 against the guest agents of 0.5 and of 0.6.
for GUEST_API in 0.5 0.6; do
  export GUEST_API
  mkdir "$work/$GUEST_API"
  mkfifo "$work/$GUEST_API/ready"
  (cd "$work/$GUEST_API" && exec "$SIMULATOR" --guest-api "$GUEST_API") \
    >"$work/$GUEST_API/ready" 2>"$work/$GUEST_API/log" &
  simulator=$!
  if ! read -r -t 60 ready <"$work/$GUEST_API/ready"; then
    echo "run-sdks: the simulator did not become ready:" >&2
    cat "$work/$GUEST_API/log" >&2
    exit 1
  fi
  echo "simulator of dstack $GUEST_API: $ready"

  export DSTACK_SIMULATOR_ENDPOINT=$work/$GUEST_API/dstack.sock TAPPD_SIMULATOR_ENDPOINT=$work/$GUEST_API/tappd.sock
  "$venv/bin/python" "$here/python_sdk.py"
  node --test --test-reporter=spec "$here/js/js_sdk.test.js"

  kill "$simulator"
  wait "$simulator"
  simulator=
done
