#!/usr/bin/env bash
# Puts Ray beside this project's environment, whose packages it uses, for the tests of the application of Ray Serve.
# Ray is 300 MB and has wishes of its own for many packages, so it is not in the environment itself. Used by `make ray`.
#
#     ray_env.sh build/ray
set -uo pipefail
PYTHON="${PYTHON:-python3}"
rm -rf "$1"
if "$PYTHON" -m venv --without-pip "$1" &&
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth" &&
    "$PYTHON" -m pip --python "$1/bin/python" install -qq 'ray[serve]==2.60.0' &&
    "$1/bin/python" -c 'from ray import serve'; then
    touch "$1/.installed"
else
    echo "Ray cannot be had here: its tests will be skipped" >&2
    rm -rf "$1"
fi
