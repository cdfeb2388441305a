"""Crops of real pictures for EfficientNet-Lite0: some to calibrate on, and labelled ones of ImageNet to judge by.

The pictures come with scikit-image and foolbox, which are installed for tests; none is committed here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

SIZE, SHORT_SIDE = 224, 256
NAMES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "camera",
    "coins",
    "page",
    "text",
    "clock",
    "horse",
    "moon",
    "retina",
)
NAMES += ("brick", "grass")


def calibration_crops() -> Tensor:
    """UINT8 [28,224,224,3]: two crops of each picture."""
    return torch.stack([crop for name in NAMES for crop in crops(Image.fromarray(getattr(skimage.data, name)()), 2)])


def labelled_crops(of_each: int) -> tuple[Tensor, Tensor]:
    """UINT8 [20 x of_each,224,224,3] and INT64: foolbox's twenty pictures have their class in the file's name."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None, "pip install 'torchere[dev]'"
    assert spec.origin is not None, "foolbox is a folder of files"
    files = sorted((Path(spec.origin).parent / "data").glob("imagenet_*"))
    images = [crop for file in files for crop in crops(Image.open(file), of_each)]
    labels = [int(file.stem.rpartition("_")[2]) for file in files for _ in range(of_each)]
    return torch.stack(images), torch.tensor(labels)


def crops(picture: Image.Image, count: int) -> list[Tensor]:
    """The middle, then others at random places; the same ones every time."""
    scale = SHORT_SIDE / min(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    height, width = pixels.shape[:2]
    places = [((height - SIZE) // 2, (width - SIZE) // 2)]
    random = np.random.default_rng(0)
    while len(places) < count:
        places.append((int(random.integers(0, height - SIZE + 1)), int(random.integers(0, width - SIZE + 1))))
    return [torch.from_numpy(pixels[top : top + SIZE, left : left + SIZE].copy()) for top, left in places]
