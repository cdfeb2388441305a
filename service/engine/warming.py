"""Runs the rows that a model's owner gave to warm it up with; where one fails, the model is not loaded.

Knows nothing of the parent or of requests: nothing here is counted. `opening.py` calls it for each instance, after it
has run every batch size on random values.
"""

from __future__ import annotations

from pathlib import Path

from compiler.errors import LoadFailed
from compiler.jobs import Interface
from compiler.manifest import Manifest
from compiler.quantize.calibration import read_warm_up
from compiler.source import WARM_UP_NAME
from service.runtime.buffers import as_bytes
from service.runtime.runner import Runner


def run_warm_up(folder: Path, manifest: Manifest, runner: Runner) -> None:
    """Run what lies in the artifact's folder, in batches of the sizes that are served. Raises LoadFailed."""
    interface = Interface(manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.buckets)
    for batch in read_warm_up(folder, interface):
        shapes = [tuple(tensor.shape) for tensor in batch]
        if manifest.max_batch_size:
            bucket = next(size for size in manifest.buckets if size >= shapes[0][0])
            shapes = [(bucket, *shape[1:]) for shape in shapes]
        try:
            runner.run([[as_bytes(tensor)] for tensor in batch], shapes)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0][:300]
            raise LoadFailed(f"the model fails on its {WARM_UP_NAME}: {type(error).__name__}: {reason}") from error
