"""A backbone that has learned from photographs of everything, and is not trained any further.

It is EfficientNet-Lite0 without its classifier. What the segmenter learns from drawings it learns of drawings;
these features come from real photographs, and help it to tell a crack from other things that are dark and long.

Sources: Tan & Le, EfficientNet (2019), of whose Lite variant no layer depends on the batch; its weights, learned from
ImageNet, are under the Apache License 2.0 (pretrained/README.md).

Shape letters: B tiles, H side of the input [px], C channels.
"""

from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = files("crackvae.model") / "pretrained" / "efficientnet_lite0.safetensors"


class _Stage(NamedTuple):
    """Blocks of one kernel [px], of which the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM_CHANNELS = 32
STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
# Stages whose maps are returned: the last ones of their size.
RETURNED = (1, 2, 4, 6)


class _Convolution(nn.Module):
    """A convolution with the padding of TensorFlow, whose stride of 2 pads the far sides more."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = 0 if stride == 2 else kernel // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
        near = (kernel - 2) // 2
        self.padding = (near, kernel - 2 - near) * 2 if stride == 2 else None

    def forward(self, maps: Tensor) -> Tensor:
        return self.convolution(functional.pad(maps, self.padding) if self.padding else maps)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Inverted residual: a wider, depthwise convolution between two of 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _Convolution(wide, outputs, 1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        wide = functional.relu6(self.expand(maps)) if self.expand else maps
        found = self.project(functional.relu6(self.depthwise(wide)))
        return maps + found if self.is_residual else found  # type: ignore[no-any-return]


class Backbone(nn.Module):
    """Grey tiles to features; batch normalisation is part of the weights, which are not trained.

    Attributes:
        channels: of the maps that forward() returns, at 1/4, 1/8, 1/16 and 1/32 of the input's side.
    """

    channels = tuple(STAGES[number].channels for number in RETURNED)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(1, STEM_CHANNELS, 3, 2)
        inputs = (STEM_CHANNELS, *(stage.channels for stage in STAGES))
        self.stages = nn.ModuleList(
            nn.Sequential(*_blocks_of(stage, before))
            for stage, (before, _) in zip(STAGES, pairwise(inputs), strict=True)
        )
        self.requires_grad_(False)

    def forward(self, tiles_B1HH: Tensor) -> list[Tensor]:
        """Maps (B, C, h, h) at 1/4, 1/8, 1/16 and 1/32 of the side.

        Args:
            tiles_B1HH: in [0, 1]; what counts is the difference from the mean of a tile.
        """
        centred_B1HH = 2 * (tiles_B1HH - tiles_B1HH.mean(dim=(2, 3), keepdim=True))
        maps = functional.relu6(self.stem(centred_B1HH.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number in RETURNED:
                found.append(maps)
        return found

    def load_pretrained(self) -> None:
        """Replace the weights by those that were learned from ImageNet."""
        self.load_state_dict(pretrained())


def pretrained() -> dict[str, Tensor]:
    """The weights of Backbone that were learned from ImageNet."""
    return {name: tensor.float() for name, tensor in load(WEIGHTS.read_bytes()).items()}


def _blocks_of(stage: _Stage, inputs: int) -> list[_Block]:
    first = _Block(inputs, stage.channels, stage.kernel, stage.stride, stage.expansion)
    rest = [_Block(stage.channels, stage.channels, stage.kernel, 1, stage.expansion) for _ in range(stage.blocks - 1)]
    return [first, *rest]
