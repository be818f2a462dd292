"""The network in bfloat16 on a CPU, for processors that multiply it natively.

Weights are converted once and the maps between the layers stay in bfloat16; torch.autocast would convert both in every
pass. What the segmenter sees is computed in float32, because differences from a local mean are lost in eight bits.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crackvae.model import network
from crackvae.model.network import BLACK, FAINTEST_TEXTURE, LOCAL_PX, Network, Output
from crackvae.model.segmenter import VIEWS, Context


class _Relu(nn.Module):
    """ReLU as a maximum of 16-bit integers, of which negative numbers are negative too: a third of torch's time."""

    def forward(self, maps: Tensor) -> Tensor:
        maps.view(torch.int16).clamp_min_(0)
        return maps


class Bfloat16Network(nn.Module):
    """A copy of a network that computes in bfloat16; input and output are float32."""

    def __init__(self, original: Network) -> None:
        super().__init__()
        self.vae_px = original.vae_px
        self.vae = _converted(original.vae)
        self.segmenter = None if original.segmenter is None else _converted(original.segmenter)
        self.mirrors = original.mirrors

    def forward(self, tiles_B1PP: Tensor) -> Output:
        """As Network.forward(), without noise."""
        if self.segmenter is None:
            return Output(*self._reconstructed(tiles_B1PP), None)
        raised = tiles_B1PP + BLACK
        half = functional.avg_pool2d(raised, 2)
        squares_B1QQ = network.reduced(half, self.vae_px)
        local = network.reduced(squares_B1QQ, raised.shape[-1] // LOCAL_PX)
        reconstruction, mu, logvar = self._reconstructed(squares_B1QQ - BLACK)
        seen = (raised, half, local, reconstruction)
        return Output(reconstruction, mu, logvar, network.mean_over_mirrors(self.mirrors, self._both_scales, seen))

    def _both_scales(self, raised: Tensor, half: Tensor, local: Tensor, reconstruction: Tensor) -> Tensor:
        segmenter: Any = self.segmenter
        context = segmenter.context and segmenter.context((half - BLACK).bfloat16())
        fine = self._logits(views(raised, local, reconstruction), context)
        of_half = views(half, functional.avg_pool2d(local, 2), reconstruction)
        return network.mean_of_scales(fine, self._logits(of_half, context and context.halved()))

    def _reconstructed(self, squares_B1QQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reconstruction, mu, logvar = self.vae(squares_B1QQ.bfloat16())
        return reconstruction.float(), mu.float(), logvar.float()

    def _logits(self, views_BCPP: Tensor, context: Context | None) -> Tensor:
        """Without a conversion to channels last, which would take longer than it saves in the stem."""
        segmenter: Any = self.segmenter
        return segmenter.after_stem(segmenter.stem(views_BCPP), context).float()  # type: ignore[no-any-return]


def _converted(module: nn.Module) -> nn.Module:
    converted = copy.deepcopy(module).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parent in list(converted.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, _Relu())
    return converted  # type: ignore[no-any-return]


def views(raised_B1PP: Tensor, local_B1SS: Tensor, reconstruction_B1QQ: Tensor) -> Tensor:
    """network.views() in half of its time, bfloat16 (B, 3, P, P): (r - x) / (r + b) is 1 - (x + b) / (r + b).

    Args:
        raised_B1PP: the tiles plus BLACK.
        local_B1SS: their means over squares of LOCAL_PX.
    """
    side = raised_B1PP.shape[-1]
    up = _interpolation(side // LOCAL_PX)
    around = functional.avg_pool2d(functional.pad(local_B1SS, (1, 1, 1, 1), mode="replicate"), 3, 1)
    darker = torch.addcdiv(torch.ones(1), raised_B1PP, up @ around @ up.T, value=-1)
    reference = network.enlarged(reconstruction_B1QQ + BLACK, raised_B1PP)
    residual = torch.addcdiv(torch.full((1,), 3.0), raised_B1PP, reference, value=-3)
    row_B1N = darker.view(-1, 1, side * side)
    square_B111 = torch.bmm(row_B1N, row_B1N.transpose(1, 2)).view(-1, 1, 1, 1) / side**2
    found = torch.empty(len(darker), VIEWS, side, side, dtype=torch.bfloat16)
    torch.mul(darker, 3, out=found[:, 0:1])
    found[:, 1:2] = darker.mul_(0.5 / (square_B111 + FAINTEST_TEXTURE**2).sqrt()).clamp_(-3, 3)
    found[:, 2:3] = residual
    return found


@cache
def _interpolation(n: int) -> Tensor:
    """Bilinear interpolation of n values to LOCAL_PX times as many, as a matrix."""
    columns_1NN1 = functional.interpolate(torch.eye(n).view(1, n, n, 1), size=(n * LOCAL_PX, 1), mode="bilinear")
    return columns_1NN1.view(n, n * LOCAL_PX).T.contiguous()
