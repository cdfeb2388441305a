"""ResNet-50, ViT-B/16 and BERT-base with random weights through the whole ladder; FP8 where there is calibration data.

    python -m benchmarks.gpu.models          needs timm and transformers

The three are built side by side and judged one after the other, so that no race is disturbed by another's. For each the
result has every rung, and by how much the winner is behind the fastest candidate at each batch size.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.gpu.common import arguments, write
from compiler import Cache, Options, Progress, compile, detect_target, find_source
from compiler.manifest import Manifest
from compiler.spec import TensorSpec

BUCKETS = (1, 32)
VISION = """
import timm
import torch

def create_model():
    torch.manual_seed(0)
    return timm.create_model("{name}", pretrained=False)
"""
BERT = """
import torch
from torch import nn
from transformers import BertConfig, BertModel

class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = BertModel(BertConfig(attn_implementation="sdpa"))

    def forward(self, input_ids, attention_mask):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return {"hidden": out.last_hidden_state, "pooled": out.pooler_output}

def create_model():
    return Bert()
"""
IMAGE = (TensorSpec("image", "FP32", (-1, 3, 224, 224)),)
TOKENS = (
    TensorSpec("input_ids", "INT64", (-1, 128), range=(0, 30000)),
    TensorSpec("attention_mask", "INT64", (-1, 128), range=(1, 1)),
)
MODELS = {
    "resnet50": (VISION.format(name="resnet50"), IMAGE),
    "vit_base_patch16_224": (VISION.format(name="vit_base_patch16_224"), IMAGE),
    "bert_base": (BERT, TOKENS),
}
# AOTInductor is left out: what it builds crashes in torch itself on the machine of the committed result.
PRECISIONS = {
    "resnet50": ("fp32", "fp16", "fp8"),
    "vit_base_patch16_224": ("fp32", "fp16", "fp8"),
    "bert_base": ("fp32", "tf32", "fp16"),
}


class Turns:
    """Lets every model build at once, and only one of them verify and race at a time, when all have been built.

    With `after`, no race begins before that file exists: whatever else uses the machine then has time to end.
    """

    def __init__(self, count: int, after: Path | None) -> None:
        self._built = threading.Barrier(count)
        self._one = threading.Lock()
        self._after = after

    def listener(self) -> Any:
        seen = {"waited": False}

        def report(progress: Progress) -> None:
            if progress.stage == "verify" and not seen["waited"]:
                seen["waited"] = True
                with contextlib.suppress(threading.BrokenBarrierError):  # one failed, or was cached: go on without it
                    self._built.wait()
                while self._after is not None and not self._after.exists():
                    time.sleep(0.5)
                self._one.acquire()

        return report, lambda: self._one.release() if seen["waited"] else self._built.abort()


def compile_model(name: str, folder: Path, cache: Path, turns: Turns) -> Manifest:
    code, inputs = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(code)
    if inputs is IMAGE:
        images = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        save_file({"image": images}, folder / "calibration.safetensors")
    options = Options(
        inputs=inputs,
        max_batch_size=BUCKETS[-1],
        buckets=BUCKETS,
        backends=("eager", "torchscript", "tensorrt"),
        precisions=PRECISIONS[name],
        timeout_s=1800,
    )
    report, done = turns.listener()
    try:
        return compile(find_source(folder), options, detect_target("cuda:0"), Cache(cache), report).manifest
    finally:
        done()


def describe(manifest: Manifest) -> dict[str, Any]:
    times = {rung.rung.name: rung.milliseconds for rung in manifest.ladder if rung.milliseconds}
    winner = manifest.chosen.rung.name
    behind = {
        batch: round(times[winner][batch] / min(taken[batch] for taken in times.values()), 3) for batch in times[winner]
    }
    ladder = [
        {
            "rung": rung.rung.name,
            "outcome": rung.outcome,
            "milliseconds": {batch: round(taken, 4) for batch, taken in rung.milliseconds.items()},
            "graphs": rung.graphs,
            "worst_relative_l2": max((error.relative_l2 for error in rung.errors), default=None),
            "build_seconds": rung.build_seconds,
            "reason": rung.reason,
        }
        for rung in manifest.ladder
    ]
    return {"winner": winner, "winner_over_fastest": behind, "ladder": ladder, "stage_seconds": manifest.stage_seconds}


def main() -> None:
    given = arguments(__doc__)
    turns = Turns(len(MODELS), given.after)
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(len(MODELS)) as pool:
        asked = {pool.submit(compile_model, name, given.cache / name, given.cache, turns): name for name in MODELS}
        for task in as_completed(asked):
            failure, name = task.exception(), asked[task]
            result = describe(task.result()) if failure is None else {"failed": f"{type(failure).__name__}: {failure}"}
            found[name] = result
            print(name, {key: value for key, value in result.items() if key != "ladder"}, flush=True)
            for rung in result.get("ladder", ()):
                print("  ", *(rung[key] for key in ("rung", "outcome", "milliseconds", "worst_relative_l2", "reason")))
            write(
                "gpu_models", given.out, buckets=BUCKETS, models={name: found[name] for name in MODELS if name in found}
            )


if __name__ == "__main__":
    main()
