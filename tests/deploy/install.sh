#!/usr/bin/env bash
# Fetches what judges the manifests: checkov, the schemas of Kubernetes and of operators, Prometheus with promtool. It
# needs no root. Used by `make tools`; a part that cannot be had is named and left out, and its tests are skipped.
#
#     install.sh build/tools
set -uo pipefail
HERE="$(cd "$(dirname "$0")" && pwd)"
PYTHON="$(command -v "${PYTHON:-python3}")" && PYTHON="$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")"
mkdir -p "$1" && cd "$1" || exit 1

policy() {
    "$PYTHON" -m venv policy && policy/bin/pip install -qq -r "$HERE/tools.txt" && policy/bin/python -c 'import checkov'
}

prometheus() {  # Debian's package, without its service
    local fetched
    fetched="$(mktemp -d)"
    (cd "$fetched" && { apt-get download -q prometheus || { apt-get -q update && apt-get download -q prometheus; }; } &&
        dpkg -x prometheus_*.deb unpacked) >/dev/null && mkdir -p bin && cp "$fetched"/unpacked/usr/bin/prom* bin/
    local code=$?
    rm -rf "$fetched"
    [ "$code" = 0 ] && bin/promtool --version >/dev/null 2>&1
}

missing=0
for part in policy prometheus; do
    if ! "$part"; then
        echo "$part cannot be had here: its tests will be skipped" >&2
        missing=1
    fi
done
[ "$missing" = 1 ] || touch .installed
