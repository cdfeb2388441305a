#!/usr/bin/env bash
# Fetches the clients of others that tests drive and that do not fit into this project's environment: kserve's (whose
# pins contradict ours), perf_analyzer, buf. It knows nothing of the server and needs no root. Used by `make clients`;
# who uses what it fetched: tests/e2e/foreign/. A part that cannot be had is named and left out.
#
#     install.sh build/clients
set -uo pipefail
HERE="$(cd "$(dirname "$0")" && pwd)"
PYTHON="$(command -v "${PYTHON:-python3}")" && PYTHON="$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")"
mkdir -p "$1/bin" "$1/lib" && cd "$1" || exit 1
FETCHED="$(mktemp -d)"
trap 'rm -rf "$FETCHED"' EXIT

pypi() {  # the wheel of $1, unpacked into $FETCHED/$2
    "$PYTHON" -m pip download -qq --no-deps --only-binary :all: -d "$FETCHED/wheels-$2" "$1" &&
        "$PYTHON" -m zipfile -e "$FETCHED/wheels-$2"/*.whl "$FETCHED/$2"
}

kserve() {
    "$PYTHON" -m venv kserve &&
        kserve/bin/pip install -qq --no-compile --no-deps -r "$HERE/kserve.txt" &&
        kserve/bin/python -c 'import kserve'
}

buf() {  # its `buf curl` asks a server by reflection, as grpcurl does, and comes as a wheel
    pypi buf-bin==1.75.0 buf && install -m 755 "$FETCHED"/buf/*.data/scripts/buf bin/buf && bin/buf --version >/dev/null
}

perf_analyzer() {  # the last that a wheel of PyPI brings for glibc below 2.39; it wants two libraries more
    pypi tritonclient==2.51.0 triton && pypi nvidia-cuda-runtime-cu12==12.9.79 cudart || return
    install -m 755 "$FETCHED"/triton/*.data/data/bin/perf_analyzer bin/perf_analyzer &&
        cp "$FETCHED"/cudart/nvidia/cuda_runtime/lib/libcudart.so.12 lib/ || return
    if ! ldconfig -p | grep -q 'libb64\.so\.0d'; then
        (cd "$FETCHED" && { apt-get download -q libb64-0d || { apt-get -q update && apt-get download -q libb64-0d; }; } &&
            dpkg -x libb64-0d_*.deb b64) >/dev/null && find "$FETCHED/b64" -name 'libb64.so.0d' -exec cp -L {} lib/ \;
    fi
    LD_LIBRARY_PATH=lib bin/perf_analyzer --version >/dev/null
}

missing=0
for part in kserve buf perf_analyzer; do
    if ! "$part"; then
        echo "$part cannot be had here: its tests will be skipped" >&2
        rm -rf "${part:?}" "bin/$part"
        missing=1
    fi
done
[ "$missing" = 1 ] || touch .installed
