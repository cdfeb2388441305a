"""How many frontends a machine of so many cores gets, and the environment in which each starts.

Pure. `settings.py` asks for the number, `serve.py` starts them.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.ports import HTTP_SOCKET_VARIABLE

# Measured with small requests on 4 to 12 cores (docs/benchmarking.md): on 4 a second frontend brought up to 97 %, and a
# third more over gRPC alone. Three to four are as much as one engine takes; there is an engine for each GPU.
FEW_CORES_PER_FRONTEND, MOST_ON_FEW = 2, 4
CORES_PER_FRONTEND = 4  # of a large machine: parsing and copying take about a quarter of what inference does
# A frontend computes nothing: a library for that needs no threads. gRPC's threads share one heap, for with one of their
# own each a frontend took 6 MB more after some load, and was no faster.
LEAN = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def count_frontends(cores: int) -> int:
    """As many as pay, where nothing else is asked for."""
    return max(1, min(cores // FEW_CORES_PER_FRONTEND, MOST_ON_FEW), cores // CORES_PER_FRONTEND)


def environment_of_frontend(descriptor: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What is set in `environment` already stands."""
    return {**LEAN, **environment, HTTP_SOCKET_VARIABLE: str(descriptor)}
