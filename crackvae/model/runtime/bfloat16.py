"""The network in bfloat16 on a CPU, for processors that multiply it natively.

Weights are converted once and the maps between the layers stay in bfloat16; torch.autocast would convert both in every
pass. What the segmenter sees is computed in float32, because differences from a local mean are lost in eight bits.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from crackvae.model import network
from crackvae.model.network import BLACK, FAINTEST_TEXTURE, HALF_SCALE_WEIGHT, Network, Output


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

    def forward(self, tiles_B1PP: Tensor) -> Output:
        """As Network.forward(), without noise."""
        squares_B1QQ = network.reduced(tiles_B1PP, self.vae_px).bfloat16()
        reconstruction, mu, logvar = (one.float() for one in self.vae(squares_B1QQ))
        if self.segmenter is None:
            return Output(reconstruction, mu, logvar, None)
        fine = self.segmenter(views(tiles_B1PP, reconstruction)).float()
        coarse = self.segmenter(views(functional.avg_pool2d(tiles_B1PP, 2), reconstruction)).float()
        coarse = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        return Output(reconstruction, mu, logvar, torch.lerp(fine, coarse, HALF_SCALE_WEIGHT))


def _converted(module: nn.Module) -> nn.Module:
    converted = copy.deepcopy(module).to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parent in list(converted.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, _Relu())
    return converted  # type: ignore[no-any-return]


def views(tiles_B1PP: Tensor, reconstruction_B1QQ: Tensor) -> Tensor:
    """network.views() in half of its time, bfloat16 (B, 3, P, P): (r - x) / (r + b) is 1 - (x + b) / (r + b)."""
    raised = tiles_B1PP + BLACK
    darker = torch.addcdiv(torch.ones(1), raised, network.local_mean(raised), value=-1)
    residual = torch.addcdiv(
        torch.full((1,), 3.0), raised, network.enlarged(reconstruction_B1QQ + BLACK, tiles_B1PP), value=-3
    )
    texture = (darker.square().mean(dim=(2, 3), keepdim=True) + FAINTEST_TEXTURE**2).sqrt()
    found = torch.empty(len(darker), network.VIEWS, *darker.shape[2:], dtype=torch.bfloat16)
    torch.mul(darker, 3, out=found[:, 0:1])
    found[:, 1:2] = darker.mul_(0.5 / texture).clamp_(-3, 3)
    found[:, 2:3] = residual
    return found
