#!/usr/bin/env bash
# The Python SDK's own tests with each Python that it is for, from the wheel that `venv.sh` builds, and with the oldest Python the oldest
# httpx. Whichever Pythons this machine has are used, from PATH or pyenv; the last lines say which it has not, and so what was not tested.
# AS_USER: how to run anything as the user, where this is run as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tests=$here/..
built=$(${AS_USER:-} "$tests/venv.sh")

# A shim of pyenv is on PATH, and fails, where another version is in use.
find_python() {
  local found
  for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if "$found" -c 'import ensurepip, venv' 2>/dev/null; then echo "$found" && return; fi
  done
  return 1
}

tested=() missing=()
for version in $(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$tests/../pyproject.toml"); do
  if ! python=$(find_python "$version"); then
    missing+=("$version")
    continue
  fi
  venv=${built%/*}/python-venv-$version
  # Made again when the requirements or the Python change, or when an earlier run did not finish it.
  wanted=$("$python" --version; cat "$here/requirements.txt")
  if [ "$wanted" != "$(cat "$venv/installed.txt" 2>/dev/null || true)" ]; then
    ${AS_USER:-} "$python" -m venv --clear "$venv"
    ${AS_USER:-} "$venv/bin/pip" install --quiet --disable-pip-version-check --retries 10 --timeout 60 --only-binary :all: \
      --require-hashes -r "$here/requirements.txt"
    printf '%s\n' "$wanted" | ${AS_USER:-} tee "$venv/installed.txt" >/dev/null
  fi
  ${AS_USER:-} "$venv/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$built"/dist/dstack_p2p-*.whl
  echo "$("$venv/bin/python" --version), httpx $("$venv/bin/python" -c 'import httpx; print(httpx.__version__)')"
  ${AS_USER:-} "$venv/bin/python" -B -m pytest -c "$tests/../pyproject.toml" -q -p no:cacheprovider \
    "$tests" --ignore "$tests/mesh" --ignore "$tests/test_package.py"
  tested+=("$version")
done
((${#tested[@]})) || { echo "error: none of the Pythons that the SDK is for is on this machine: ${missing[*]}" >&2; exit 1; }
echo "measured: the Python SDK's tests passed with Python ${tested[*]}${missing:+; not on this machine, and so not tested: ${missing[*]}}"
