"""The network: the ConvVAE, and what the segmenter is shown of a tile.

Shape letters: B tiles of a batch, P side of a tile at the input [px], Q side of the ConvVAE's input [px], C channels,
Z latent dimensions.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crackvae.model.backbone import pretrained
from crackvae.model.segmenter import Segmenter
from crackvae.model.spec import MIRRORS, ModelSpec

# Added to a reference before dividing by it, so that a share of the brightness stays finite on black.
BLACK = 0.1
# Side of the squares over which the local brightness is measured [px]; a tile's side is a multiple of it.
LOCAL_PX = 16
# Texture below this standard deviation [share of the brightness] is sensor noise and JPEG blocks; it is not amplified.
FAINTEST_TEXTURE = 0.012

# Prefix of the weights that no training changes.
BACKBONE = "segmenter.context.backbone."

# Weight of the logits at half scale, where grain is averaged out and a wide crack is an ordinary one. It is that which
# ranked best on val; the pass at half scale costs a quarter.
HALF_SCALE_WEIGHT = 1 / 3


class ConvVAE(nn.Module):
    """Convolutional variational autoencoder of grey squares in [0, 1].

    Stride-2 convolutions halve the input, two linear layers give mean and log-variance of the posterior, and transposed
    convolutions mirror the encoder, up to a sigmoid.

    Attributes:
        averages: reconstruct from the whole posterior instead of from its mean when no noise is given; see average().

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2014).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        widths = (1, *spec.channels)
        pairs = list(pairwise(widths))
        self.side = spec.vae_px >> len(spec.channels)
        self.averages = spec.recipe == "plain"
        self.widest = widths[-1]
        features = self.widest * self.side**2
        self.encoder = nn.Sequential(*[layer for a, b in pairs for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())])
        self.mu = nn.Linear(features, spec.latent_dim)
        self.logvar = nn.Linear(features, spec.latent_dim)
        self.expand = nn.Linear(spec.latent_dim, features)
        up = [layer for a, b in reversed(pairs) for layer in (nn.ReLU(), nn.ConvTranspose2d(b, a, 4, 2, 1))]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def encode(self, squares_B1QQ: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, Z) of the posterior."""
        features = self.encoder(squares_B1QQ).flatten(1)
        return self.mu(features), self.logvar(features)

    def decode(self, z_BZ: Tensor) -> Tensor:
        """Reconstruction (B, 1, Q, Q) in (0, 1)."""
        return self._paint(self.expand(z_BZ))

    def average(self, mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
        """Reconstruction (B, 1, Q, Q) from the mean of the decoder's first rectified layer over the posterior.

        With a large weight of the KL divergence most latent dimensions carry no information about the tile and are
        noise of standard deviation 1, which the decoder learns to cancel after its first ReLU. z = mu has no such noise
        and lies outside the training distribution: its squared error was five times that of a sample. A rectified
        normal variable with mean m and standard deviation s has the mean m Phi(m / s) + s phi(m / s).
        """
        mean_BF = self.expand(mu_BZ)
        deviation_BF = functional.linear(logvar_BZ.exp(), self.expand.weight.square()).clamp(min=1e-12).sqrt()
        ratio_BF = mean_BF / deviation_BF
        density_BF = (-0.5 * ratio_BF.square()).exp() * (1 / math.sqrt(2 * math.pi))
        return self._paint(mean_BF * torch.special.ndtr(ratio_BF) + deviation_BF * density_BF)

    def _paint(self, features_BF: Tensor) -> Tensor:
        return self.decoder(features_BF.view(-1, self.widest, self.side, self.side))  # type: ignore[no-any-return]

    def forward(self, squares_B1QQ: Tensor, noise_BZ: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance; without noise z is not sampled (scoring)."""
        mu_BZ, logvar_BZ = self.encode(squares_B1QQ)
        if noise_BZ is not None:
            return self.decode(mu_BZ + noise_BZ * (0.5 * logvar_BZ).exp()), mu_BZ, logvar_BZ
        reconstruction_B1QQ = self.average(mu_BZ, logvar_BZ) if self.averages else self.decode(mu_BZ)
        return reconstruction_B1QQ, mu_BZ, logvar_BZ


class Output(NamedTuple):
    """Output of one forward pass.

    Attributes:
        reconstruction_B1QQ: in (0, 1), of the tile's mean over squares; of the tile itself without a segmenter.
        mu_BZ, logvar_BZ: mean and log-variance of the posterior.
        crack_B1PP: logit of each pixel being cracked; None for a model without a segmenter.
    """

    reconstruction_B1QQ: Tensor
    mu_BZ: Tensor
    logvar_BZ: Tensor
    crack_B1PP: Tensor | None


class Network(nn.Module):
    """The ConvVAE and, if the model has one, the segmenter that compares a tile with its reconstruction."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.vae_px = spec.vae_px
        self.vae = ConvVAE(spec)
        self.segmenter = Segmenter(spec.segmenter, backbone=spec.backbone != "none") if spec.segmenter else None
        self.mirrors = MIRRORS[: spec.mirrors]

    def forward(self, tiles_B1PP: Tensor, noise_BZ: Tensor | None = None) -> Output:
        """Everything that training and the score heads need. No gradient flows from the segmenter to the ConvVAE.

        While it is trained, the network looks at each tile once.

        Args:
            tiles_B1PP: float in [0, 1].
            noise_BZ: standard normal noise to sample z with; None reconstructs without sampling.
        """
        reconstruction, mu, logvar = self.vae(reduced(tiles_B1PP, self.vae_px), noise_BZ)
        if self.segmenter is None:
            return Output(reconstruction, mu, logvar, None)
        mirrors = self.mirrors[:1] if self.training else self.mirrors
        logits = partial(self._logits, self.segmenter)
        seen = (tiles_B1PP, reconstruction.detach())
        return Output(reconstruction, mu, logvar, mean_over_mirrors(mirrors, logits, seen))

    @staticmethod
    def _logits(segmenter: Segmenter, tiles_B1PP: Tensor, reconstruction_B1QQ: Tensor) -> Tensor:
        """Weighted mean of the segmenter's logits for the tile and for the tile at half its side, (B, 1, P, P)."""
        half_B1HH = functional.avg_pool2d(tiles_B1PP, 2)
        context = segmenter.context and segmenter.context(half_B1HH)
        fine = segmenter(views(tiles_B1PP, reconstruction_B1QQ), context)
        coarse = segmenter(views(half_B1HH, reconstruction_B1QQ), context and context.halved())
        return mean_of_scales(fine, coarse)


def pretrained_weights(spec: ModelSpec) -> dict[str, Tensor]:
    """The weights of a network's backbone, named as in the network; none if it has no backbone."""
    return {} if spec.backbone == "none" else {BACKBONE + name: tensor for name, tensor in pretrained().items()}


def mean_of_scales(fine_BCPP: Tensor, coarse: Tensor) -> Tensor:
    """Weighted mean of maps at the tile's scale and of maps of half their side, (B, C, P, P)."""
    enlarged = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    return torch.lerp(fine_BCPP, enlarged, HALF_SCALE_WEIGHT)


def mean_over_mirrors(
    mirrors: Sequence[tuple[int, ...]], answer: Callable[..., Tensor], maps: Sequence[Tensor]
) -> Tensor:
    """Mean of the answers for mirror images of the maps, each mirrored back.

    Args:
        mirrors: axes of each image, of MIRRORS.
        answer: from the maps of an image to maps of the same shape.
    """
    looks = [mirrored(answer(*(mirrored(one, axes) for one in maps)), axes) for axes in mirrors]
    return looks[0] if len(looks) == 1 else torch.stack(looks).mean(dim=0)


def mirrored(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The maps, mirrored along some axes, perhaps along none, which an export of flip() does not allow."""
    return maps.flip(axes) if axes else maps


def views(tiles_B1PP: Tensor, reconstruction_B1QQ: Tensor) -> Tensor:
    """Input channels of the segmenter, (B, VIEWS, P, P). Each says how much darker a pixel is than a reference.

    1. the local mean, as a share of it;
    2. the same in standard deviations of the tile's texture: a difference that is visible on a smooth wall may not be
       on gravel;
    3. the ConvVAE's reconstruction, as a share of it.
    """
    darker = darker_than(_local_mean(tiles_B1PP), tiles_B1PP)
    texture = (darker.square().mean(dim=(2, 3), keepdim=True) + FAINTEST_TEXTURE**2).sqrt()
    residual = darker_than(enlarged(reconstruction_B1QQ, tiles_B1PP), tiles_B1PP)
    return torch.cat([3 * darker, 0.5 * (darker / texture).clamp(-6, 6), 3 * residual], dim=1)


def _local_mean(tiles_B1PP: Tensor) -> Tensor:
    """Mean over about 3 LOCAL_PX around each pixel, by average pooling and interpolation, (B, 1, P, P)."""
    squares = functional.pad(functional.avg_pool2d(tiles_B1PP, LOCAL_PX), (1, 1, 1, 1), mode="replicate")
    return functional.interpolate(functional.avg_pool2d(squares, 3, 1), scale_factor=float(LOCAL_PX), mode="bilinear")


def darker_than(reference_B1PP: Tensor, tiles_B1PP: Tensor) -> Tensor:
    """How much darker each pixel is than its reference, relative to it, (B, 1, P, P); negative where lighter."""
    return (reference_B1PP - tiles_B1PP) / (reference_B1PP + BLACK)


def reduced(tiles_B1PP: Tensor, side_px: int) -> Tensor:
    """The tiles as the ConvVAE sees them: means over squares, (B, 1, Q, Q)."""
    factor = tiles_B1PP.shape[-1] // side_px
    return functional.avg_pool2d(tiles_B1PP, factor) if factor > 1 else tiles_B1PP


def enlarged(reconstruction_B1QQ: Tensor, tiles_B1PP: Tensor) -> Tensor:
    """A reconstruction in the size of its tiles, (B, 1, P, P)."""
    factor = tiles_B1PP.shape[-1] // reconstruction_B1QQ.shape[-1]
    if factor == 1:
        return reconstruction_B1QQ
    return functional.interpolate(reconstruction_B1QQ, scale_factor=float(factor), mode="bilinear")


def squared_error(tiles_B1PP: Tensor, reconstruction_B1QQ: Tensor) -> Tensor:
    """Mean squared error of each tile's reconstruction, float (B,) [squared grey level, black 0 to white 1]."""
    return (reduced(tiles_B1PP, reconstruction_B1QQ.shape[-1]) - reconstruction_B1QQ).square().mean(dim=(1, 2, 3))


def is_exporting() -> bool:
    """Whether the network is being exported, which traces it; torch.onnx could say so, but takes 0.2 s to import."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def largest(map_B1PP: Tensor, share: float) -> Tensor:
    """The largest `share` of the values of each map, at least one, in no particular order, float (B, L).

    A crack covers 1 to 3 % of the pixels of a tile, so it hardly changes the mean over all of them.
    """
    values_BN = map_B1PP.flatten(1)
    n = int(values_BN.shape[1])
    count = max(1, round(share * n))
    if count == n:
        return values_BN
    if values_BN.requires_grad or values_BN.device.type != "cpu" or is_exporting():
        return values_BN.topk(count, dim=1).values
    return torch.from_numpy(np.partition(values_BN.numpy(), -count, axis=1)[:, -count:])  # a fifth of torch's time


def to_input(tiles_BPP: Tensor) -> Tensor:
    """uint8 (B, P, P) to the network's input: float32 (B, 1, P, P) in [0, 1], channels last."""
    return (tiles_BPP.unsqueeze(1).float() / 255).contiguous(memory_format=torch.channels_last)
