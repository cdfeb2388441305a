"""A model.yaml that says all there is to say, and how tests read one. Not a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.repository.config import ConfigError, read_config
from service.repository.model_config import ModelConfig

FULL = """\
description: Cats and dogs
max_batch_size: 8
inputs:
  - name: image
    datatype: UINT8
    shape: [-1, 4, 6, 3]
    range: [0, 255]
    image: {fit: pad, color: RGB}
outputs:
  - name: scores
    datatype: FP32
    shape: [-1, 2]
    labels: [cat, dog]
batching:
  max_queue_delay_us: 500
  max_queue_size: 32
  timeout_us: 1000000
  buckets: [1, 8]
compile:
  backends: [eager, inductor]
  objective: latency
  precision: [fp16, fp32]
  tolerance: {relative_l2: 1e-3, int8: {relative_l2: 0.2}}
  max_accuracy_drop: 0.02
  sparsity: prune
  strict: true
  timeout_s: 60
trust: true
startup: wait
factory: {name: mlp, arguments: {sizes: [4, 2]}}
requires: [torch-geometric]
instances: 2
version_policy: {latest: 3}
"""


def read(folder: Path, text: str | bytes) -> ModelConfig:
    data = text.encode() if isinstance(text, str) else text
    (folder / "model.yaml").write_bytes(data)
    return read_config(folder)


def faults(folder: Path, text: str | bytes) -> list[str]:
    """What is wrong with it, without the path, which must be there."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    path = f"{folder / 'model.yaml'}:"
    assert all(fault.startswith(path) for fault in caught.value.faults)
    return [fault.removeprefix(path) for fault in caught.value.faults]
