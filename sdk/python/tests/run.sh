#!/usr/bin/env bash
# The Python SDK's checks and tests.
#   run.sh                    types, and everything that needs no root; the gate of examples/cvm among it, with the `meshctl` that cargo built,
#                             examples/kafka, and what packs the product (packaging)
#   run.sh mesh               the SDK against real agents in network namespaces, as root, with the programs that cargo built
#   run.sh examples           the same of the examples that need no packages, and of the services of examples/cvm with the rights that its
#                             file gives them
#   run.sh apps [EXAMPLE …]   the same of examples with databases, whose Debian packages `make test-apps` installs: all, or those in these
#                             folders of examples/. QUICK=1 leaves out the tests that are marked `nightly`.
#   run.sh dist               what `make dist` made, on machines that boot: `.ci/dist-nodes`
# AS_USER: how to run anything as the user, where this is run as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
venv=$(${AS_USER:-} "$here/venv.sh")
pytest=("$venv/bin/python" -B -m pytest -c "$here/../pyproject.toml" --rootdir "$root" -q -p no:cacheprovider --durations=3)

what=${1:-}
if [ -n "$what" ]; then
  as_root=()
  if ((EUID != 0)); then as_root=(sudo env "CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}"); fi
  shift
  cd "$root/examples"
  case "$what" in
  mesh) set -- "$here/mesh" ;;
  dist) set -- --capture=no "$root/packaging/installed" ;;
  examples) set -- hello-p2p counter cvm/test_agent.py ;;
  apps)
    (($#)) || set -- etcd patroni redis-cluster tls
    [ -z "${QUICK:-}" ] || set -- "$@" -m "not nightly"
    ;;
  *) echo "usage: $0 [mesh | dist | examples | apps [EXAMPLE …]]" >&2; exit 2 ;;
  esac
  exec "${as_root[@]}" "${pytest[@]}" "$@"
fi
cd "$here/.."
"$venv/bin/mypy" --cache-dir "$venv/mypy-cache"
# What users get, with the oldest Python that it is for.
"$venv/bin/mypy" --cache-dir "$venv/mypy-cache" --python-version 3.9 src
exec "${pytest[@]}" tests "$root/examples/cvm/test_compose.py" "$root/examples/kafka" "$root/packaging" --ignore tests/mesh --ignore "$root/packaging/installed"
