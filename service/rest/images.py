"""An image file to the tensor a model takes, as its `image:` declaration in model.yaml says.

Pillow decodes, and is imported with the first image; this file decides size and layout. The doors of `infer.py` ask.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import numpy as np

from compiler.spec import TensorSpec
from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.repository.model_config import ImageInput
from service.rest.rows import explain
from service.tensors import NUMPY_TYPES, Buffer, Tensor

if TYPE_CHECKING:
    from PIL import Image

CONTENT_TYPES = {b"image/png": "PNG", b"image/jpeg": "JPEG", b"image/jpg": "JPEG"}
BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
MAX_PIXELS = 100_000_000  # a few hundred megabytes once decoded; beyond that it is a decompression bomb


def find_format(body: Buffer) -> str | None:
    """ "PNG" or "JPEG" by the first bytes; None for anything else."""
    start = bytes(body[:8])
    return next((name for beginning, name in BEGINNINGS.items() if start.startswith(beginning)), None)


async def read_image(entry: Entry, body: Buffer, file_format: str) -> Tensor:
    """The image of a body as one row of the model's only input, decoded beside the event loop. Raises InvalidInput."""
    if not entry.images:
        raise InvalidInput(f"model '{entry.name}' takes no image files: {explain(entry)}")
    if len(entry.inputs) != 1:
        raise InvalidInput(f"model '{entry.name}' has {len(entry.inputs)} inputs, an image body can fill only one")
    return await asyncio.to_thread(decode_image, body, file_format, entry.images[0], entry.inputs[0])


def read_file(entry: Entry, body: bytes) -> Tensor:
    """An image that does not say what it is, as one row. Blocking. Raises InvalidInput."""
    file_format = find_format(body)
    if file_format is None:
        raise InvalidInput(f"input '{entry.inputs[0].name}': the file is neither PNG nor JPEG")
    return decode_image(body, file_format, entry.images[0], entry.inputs[0])


def decode_image(body: Buffer, file_format: str, image: ImageInput, spec: TensorSpec) -> Tensor:
    """One row: shape [1,H,W,C] or [1,C,H,W] as `spec` has it; values 0 to 255. Raises InvalidInput."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body), formats=[file_format]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InvalidInput(
                    f"the image has {opened.width}x{opened.height} pixels, at most {MAX_PIXELS} are taken"
                )
            picture = ImageOps.exif_transpose(opened).convert(image.color)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"the body is not a {file_format} image that can be read: {error}") from error
    channels_last = spec.shape[3] in (1, 3)
    height, width = spec.shape[1:3] if channels_last else spec.shape[2:4]
    pixels = np.asarray(fit_image(picture, width, height, image))
    pixels = pixels.reshape(height, width, -1)
    if not channels_last:
        pixels = pixels.transpose(2, 0, 1)
    data = np.ascontiguousarray(pixels[None], NUMPY_TYPES[spec.datatype])
    return Tensor(spec.name, spec.datatype, data.shape, data.tobytes())


def fit_image(picture: Image.Image, width: int, height: int, image: ImageInput) -> Image.Image:
    """`crop`: the centre in the target's aspect ratio, `crop_fraction` of what fits; `pad`: all; `stretch`: warped."""
    from PIL import Image, ImageOps

    if image.fit == "stretch":
        return picture.resize((width, height), Image.Resampling.BICUBIC)
    if image.fit == "pad":
        return ImageOps.pad(picture, (width, height), Image.Resampling.BICUBIC)
    scale = min(picture.width / width, picture.height / height) * image.crop_fraction
    crop_width, crop_height = width * scale, height * scale
    left, top = (picture.width - crop_width) / 2, (picture.height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
