"""A torchere that counts nothing, to be measured beside one that does: put this folder on PYTHONPATH.

Python imports it at the start of every process. Only `metrics_cost.py` does so.
"""

from typing import Any

from service.observe.recorders import BatchRecorder, RequestRecorder


def nothing(*_: Any, **__: Any) -> None:
    """Count nothing."""


for recorder in (RequestRecorder, BatchRecorder):
    for name in ("finished", "encoded", "traced", "dispatched", "settled", "batch", "depth"):
        if hasattr(recorder, name):
            setattr(recorder, name, nothing)
