"""Which GPU an engine's process may see: its own alone, so that nothing in it can take memory of another.

Pure. Towards clients, metrics and artifacts a GPU keeps the name it has on the machine, `cuda:3`; inside its engine it
is the only one there is. `serve.py` starts engines with this environment, `worker.py` asks for the name inside.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "CUDA_VISIBLE_DEVICES"
ONLY = "cuda:0"


def environment_of(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add for an engine on `device`, counted among those that `environment` lets us see."""
    if not device.startswith("cuda:"):
        return {}
    number = int(device.removeprefix("cuda:"))
    ours = [each.strip() for each in environment.get(VARIABLE, "").split(",") if each.strip()]
    return {VARIABLE: ours[number] if number < len(ours) else str(number)}


def name_inside(device: str) -> str:
    """What torch calls it in its engine."""
    return ONLY if device.startswith("cuda:") else device
