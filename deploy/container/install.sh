#!/bin/sh
# Installs torchere and exactly the packages of a lock into a new virtual environment. The Dockerfile runs it, and so
# does the test of the image's steps.
#
#     deploy/container/install.sh /opt/torchere deploy/container/requirements-cpu.txt [pip's own options]
set -eu
environment=$1 lock=$2
shift 2
source=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)

"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install "$@" --requirement "$lock"
# The build tool is one of the locked packages: nothing is fetched that the lock does not name.
"$environment/bin/pip" install --no-deps --no-build-isolation "$source"
"$environment/bin/pip" check
# What only developers of those packages need: 150 MB with PyTorch.
find "$environment" -depth -type d \( -name tests -o -name test \) -path '*/site-packages/*' \
    \( -path '*/torch/*' -o -path '*/numpy/*' -o -path '*/sympy/*' -o -path '*/networkx/*' \) \
    ! -path '*/torch/testing*' ! -path '*/torch/_inductor/*' ! -path '*/numpy/testing*' -exec rm -r {} +
rm -rf "$environment"/lib/python3*/site-packages/torch/bin/*test*
