"""The demo models in process, as a program: what the server's answers are compared with.

python -m tests.e2e.reference digits out.npz      held-out images, their digits, the eager model's probabilities
python -m tests.e2e.reference cat out.png         scikit-image's picture of a cat
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def digits(out: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = ROOT / "models" / "digits"
    _, _, images, labels = runpy.run_path(str(folder / "train.py"))["split_digits"]()
    model = runpy.run_path(str(folder / "1" / "model.py"))["create_model"]()
    model.load_state_dict(load_file(folder / "1" / "model.safetensors"))
    with torch.inference_mode():
        probabilities = model.eval()(image=images)["probabilities"]
    np.savez(out, images=images.numpy(), labels=labels.numpy(), probabilities=probabilities.numpy())


def cat(out: Path) -> None:
    import skimage.data
    from PIL import Image

    Image.fromarray(skimage.data.chelsea()).save(out)


if __name__ == "__main__":
    {"digits": digits, "cat": cat}[sys.argv[1]](Path(sys.argv[2]))
