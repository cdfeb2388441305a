"""Image files become the tensor that model.yaml declares, or a sentence."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compiler.spec import TensorSpec
from service.errors import InvalidInput
from service.repository.model_config import ImageInput
from service.rest.images import decode_image
from service.tensors import to_numpy

RED, BLUE = (255, 0, 0), (0, 0, 255)


def half_red_half_blue(width: int = 64, height: int = 32, exif_orientation: int = 0) -> bytes:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    stream = io.BytesIO()
    exif = Image.Exif()
    if exif_orientation:
        exif[0x0112] = exif_orientation
    picture.save(stream, "PNG", exif=exif)
    return stream.getvalue()


def decode(body: bytes, shape: tuple[int, ...], datatype: str = "UINT8", **image: Any) -> np.ndarray[Any, Any]:
    wanted = ImageInput(
        "image", image.get("fit", "stretch"), image.get("crop_fraction", 1.0), image.get("color", "RGB")
    )
    tensor = decode_image(body, "PNG", wanted, TensorSpec("image", datatype, shape))
    return to_numpy(tensor)


def test_channels_last_and_channels_first() -> None:
    last = decode(half_red_half_blue(), (-1, 8, 8, 3))
    first = decode(half_red_half_blue(), (-1, 3, 8, 8))
    assert (last.shape, first.shape) == ((1, 8, 8, 3), (1, 3, 8, 8))
    np.testing.assert_array_equal(last[0].transpose(2, 0, 1), first[0])
    assert tuple(last[0, 0, 0]) == RED
    assert tuple(last[0, 0, 7]) == BLUE


def test_crop_takes_the_centre_at_the_models_aspect_ratio() -> None:
    square = decode(half_red_half_blue(100, 20), (-1, 20, 20, 3), fit="crop")
    assert tuple(square[0, 10, 2]) == RED
    assert tuple(square[0, 10, 17]) == BLUE
    edge = decode(half_red_half_blue(64, 64), (-1, 8, 8, 3), fit="crop", crop_fraction=0.5)
    assert tuple(edge[0, 4, 0]) == RED


def test_pad_keeps_all_of_the_picture() -> None:
    padded = decode(half_red_half_blue(64, 32), (-1, 16, 16, 3), fit="pad")
    assert tuple(padded[0, 0, 8]) == (0, 0, 0)
    assert tuple(padded[0, 8, 0]) == RED


def test_gray_and_floats() -> None:
    gray = decode(half_red_half_blue(), (-1, 8, 8, 1), datatype="FP32", color="L")
    assert gray.dtype == np.float32
    assert gray[0, 0, 0, 0] == 76  # the luma of pure red


def test_a_picture_taken_sideways_is_turned() -> None:
    turned = decode(half_red_half_blue(exif_orientation=3), (-1, 8, 8, 3))
    assert tuple(turned[0, 0, 0]) == BLUE


@pytest.mark.parametrize("body", [b"", b"not an image", half_red_half_blue()[:60]])
def test_what_is_no_picture_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a PNG image that can be read"):
        decode(body, (-1, 8, 8, 3))


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = bytearray(half_red_half_blue())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in the header; the checksum is wrong as well
    with pytest.raises(InvalidInput):
        decode(bytes(bomb), (-1, 8, 8, 3))
