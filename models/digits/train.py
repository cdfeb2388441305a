"""Trains the digits model in seconds and writes its weights, and how well it does on pictures it has not seen.

Beside the weights lie training pictures to calibrate INT8 on, and the held-out ones with their digits, by which the
compiler judges every candidate.

    python models/digits/train.py

Knows nothing of serving. `1/model.py` is the network; `metrics.json` is what its accuracy is later compared with.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).parent
SEED = 2024
HELD_OUT = 0.3  # of 1797 pictures, 540: one error is 0.2 %
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 2e-3
CALIBRATION = 256  # training pictures; the ranges of INT8 no longer move after half as many


def split_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(training images, their digits, held-out images, their digits): FP32 [n,1,8,8] from 0 to 16, INT64 [n]."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    held_out = round(HELD_OUT * len(order))
    images = torch.from_numpy(digits.images[order]).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target[order])
    return images[held_out:], labels[held_out:], images[:held_out], labels[:held_out]


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Adam with a rate that falls to zero along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model.logits(images[batch]), labels[batch])  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def count_right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many of `images` the model takes for the digit they are."""
    model.eval()
    with torch.inference_mode():
        return int((model(image=images)["probabilities"].argmax(1) == labels).sum())


def save_samples(path: Path, images: Tensor, labels: Tensor) -> None:
    """Labelled pictures in the form that the compiler reads."""
    save_file({"image": images.contiguous(), "label": labels.contiguous()}, path)


def main(out: Path) -> None:
    """Train, then write the files of `1/` and `metrics.json` under `out`."""
    torch.manual_seed(SEED)
    model = runpy.run_path(str(HERE / "1" / "model.py"))["create_model"]()
    images, labels, held_out_images, held_out_labels = split_digits()
    train(model, images, labels)
    right = count_right(model, held_out_images, held_out_labels)
    metrics = {
        "accuracy": right / len(held_out_labels),
        "correct": right,
        "held_out": len(held_out_labels),
        "training": len(labels),
        "split": f"numpy.random.default_rng({SEED}).permutation(1797): the first {len(held_out_labels)} are held out",
        "seed": SEED,
        "epochs": EPOCHS,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
        },
    }
    (out / "1").mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out / "1" / "model.safetensors")
    save_file({"image": images[:CALIBRATION].contiguous()}, out / "1" / "calibration.safetensors")
    save_samples(out / "1" / "samples.safetensors", held_out_images, held_out_labels)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"{right} of {len(held_out_labels)} held-out pictures are right: {metrics['accuracy']:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside this script)")
    main(parser.parse_args().out)
