"""Trains the digits model to be quantised: fake quantisers round in training as INT8 will round when it is served.

    python models/digits/qat.py build/digits_qat

Writes a model of its own, `model.yaml` and `1/`: the weights, the ranges that were learned, and labelled samples. It
needs no calibration. Knows nothing of serving; `train.py` has the data and the training, docs/quantization.md explains.
"""

from __future__ import annotations

import argparse
import runpy
import shutil
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

HERE = Path(__file__).parent
EPOCHS = 3  # from the trained weights, a fraction of the first training's
LEARNING_RATE = 2e-4

# Appended to the float model's file: the same network, with fake quantisers that the weights' file fills.
CREATE_MODEL = '''

def create_model() -> nn.Module:
    """The network with fake quantisers, without weights and ranges, which come from model.safetensors."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    example = (torch.zeros(1, 1, 8, 8),)
    return prepare_qat_fx(Digits().train(), get_default_qat_qconfig_mapping("onednn"), example).eval()
'''


def fine_tune(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
    """Adam at a constant rate, a few rounds over `images`: the ranges settle, the weights make up for the rounding."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(batch):
            probabilities = model(images[rows])["probabilities"]
            loss = nn.functional.nll_loss(probabilities.clamp_min(1e-9).log(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main(out: Path) -> None:
    """Fine-tune with fake quantisers, fix what they learned, write the model."""
    from torch.ao.quantization import disable_observer

    script = runpy.run_path(str(HERE / "train.py"))
    images, labels, held_out_images, held_out_labels = script["split_digits"]()
    version = out / "1"
    version.mkdir(parents=True, exist_ok=True)
    network = (HERE / "1" / "model.py").read_text().partition("\n\ndef create_model()")[0]
    (version / "model.py").write_text(network + CREATE_MODEL)
    shutil.copy(HERE / "model.yaml", out / "model.yaml")

    torch.manual_seed(script["SEED"])
    model = runpy.run_path(str(version / "model.py"))["create_model"]()
    _, unexpected = model.load_state_dict(load_file(HERE / "1" / "model.safetensors"), strict=False)
    assert not unexpected, "fake quantisers leave the names of the weights as they are"
    fine_tune(model, images, labels, script["BATCH"])
    model.apply(disable_observer)  # a served model answers the same input alike: its ranges stay as they are
    right = script["count_right"](model, held_out_images, held_out_labels)
    save_model(model, str(version / "model.safetensors"))
    script["save_samples"](version / "samples.safetensors", held_out_images, held_out_labels)
    print(f"{right} of {len(held_out_labels)} held-out pictures are right with fake quantisers")


if __name__ == "__main__":
    # torch.ao announces at each entry point that it moves to torchao; it works up to the last torch we support.
    warnings.filterwarnings("ignore", message=r"torch\.ao\.quantization is deprecated", category=DeprecationWarning)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder of the model to write")
    main(parser.parse_args().out)
