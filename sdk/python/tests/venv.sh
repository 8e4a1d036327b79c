#!/usr/bin/env bash
# Makes the Python environment of tests and examples in target/python-venv, with the SDK as users get it: from its wheel. Prints where.
# Needs: python3 (3.11 or later) with venv. What is installed is pinned by hash in requirements.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sdk=$here/..
target=${CARGO_TARGET_DIR:-$here/../../../target}
venv=$target/python-venv

# Two at a time would be one too many.
mkdir -p "$target"
exec 9>"$target/python-venv.lock"
flock 9

# Made again when the requirements or the Python change, or when an earlier run did not finish it.
wanted=$(python3 --version; cat "$here/requirements.txt")
if [ "$wanted" != "$(cat "$venv/installed.txt" 2>/dev/null || true)" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 60 --only-binary :all: --require-hashes -r "$here/requirements.txt"
  printf '%s\n' "$wanted" >"$venv/installed.txt"
fi

# Only where it changed: other tests may be running with what is there. Without isolation and index: what builds it is pinned too.
source=$(cd "$sdk" && sha256sum pyproject.toml README.md LICENSE src/dstack_p2p/*.py)
if [ "$source" != "$(cat "$venv/sdk.txt" 2>/dev/null || true)" ]; then
  rm -rf "$venv/dist" "$venv/sdk.txt"
  "$venv/bin/python" -m build --no-isolation --outdir "$venv/dist" "$sdk" >"$venv/build.log" 2>&1 || { cat "$venv/build.log" >&2; exit 1; }
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$venv"/dist/dstack_p2p-*.whl
  printf '%s\n' "$source" >"$venv/sdk.txt"
fi
echo "$venv"
