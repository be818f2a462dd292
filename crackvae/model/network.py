"""The network, its specification and its losses.

Shape letters: B tiles of a batch, P side of a tile at the input [px], Z latent dimensions.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

# The segmenter works at half the tile's side: one of its pixels holds FOLD x FOLD pixels of the tile.
FOLD = 2

# Added to a reference before dividing by it, so that a share of the brightness stays finite on black.
BLACK = 0.1

Count = Annotated[int, Field(gt=0)]
Recipe = Literal["repair", "plain"]
HeadName = Literal["mse", "top", "dark", "crack", "evidence"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that changes a score, apart from the weights: the content of model.json.

    Attributes:
        input_px: side P of a tile at the network's input [px].
        channels: output channels of the stride-2 convolutions.
        latent_dim: Z.
        segmenter: output channels of the segmenter at its three scales; empty for a model without one.
        recipe: training recipe.
        tile_px, stride_px: side of a tile and distance between tile origins in the image [px].
        head: score head.
        beta: weight of the KL divergence in training [squared grey level per nat].
        seed: of the training.
        manifest: digest of the manifest of the training.
        leaky: whether that manifest allows copies of an image on both sides of its splits.
    """

    input_px: Count
    channels: tuple[Count, ...]
    latent_dim: Count
    segmenter: tuple[Count, ...]
    recipe: Recipe
    tile_px: Count
    stride_px: Count
    head: HeadName
    beta: int | float  # kept as written: a digest of 0 is not that of 0.0
    seed: int
    manifest: str
    leaky: bool


class ConvVAE(nn.Module):
    """Convolutional variational autoencoder of grey tiles in [0, 1].

    Stride-2 convolutions halve the tile, two linear layers give mean and log-variance of the posterior, and transposed
    convolutions mirror the encoder, up to a sigmoid.

    Attributes:
        averages: reconstruct from the whole posterior instead of from its mean when no noise is given; see average().

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2014).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        widths = (1, *spec.channels)
        pairs = list(pairwise(widths))
        self.side = spec.input_px >> len(spec.channels)
        self.averages = spec.recipe == "plain"
        self.widest = widths[-1]
        features = self.widest * self.side**2
        self.encoder = nn.Sequential(*[layer for a, b in pairs for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())])
        self.mu = nn.Linear(features, spec.latent_dim)
        self.logvar = nn.Linear(features, spec.latent_dim)
        self.expand = nn.Linear(spec.latent_dim, features)
        up = [layer for a, b in reversed(pairs) for layer in (nn.ReLU(), nn.ConvTranspose2d(b, a, 4, 2, 1))]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def encode(self, tiles_B1PP: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, Z) of the posterior."""
        features = self.encoder(tiles_B1PP).flatten(1)
        return self.mu(features), self.logvar(features)

    def decode(self, z_BZ: Tensor) -> Tensor:
        """Reconstruction (B, 1, P, P) in (0, 1)."""
        return self._paint(self.expand(z_BZ))

    def average(self, mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
        """Reconstruction (B, 1, P, P) from the mean of the decoder's first rectified layer over the posterior.

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

    def forward(self, tiles_B1PP: Tensor, noise_BZ: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance; without noise z is not sampled (scoring)."""
        mu_BZ, logvar_BZ = self.encode(tiles_B1PP)
        if noise_BZ is not None:
            return self.decode(mu_BZ + noise_BZ * (0.5 * logvar_BZ).exp()), mu_BZ, logvar_BZ
        reconstruction_B1PP = self.average(mu_BZ, logvar_BZ) if self.averages else self.decode(mu_BZ)
        return reconstruction_B1PP, mu_BZ, logvar_BZ


class Segmenter(nn.Module):
    """Segments cracks in a tile, given its reconstruction by the ConvVAE: a small U-Net trained on synthetic cracks.

    Source: Ronneberger, Fischer & Brox, U-Net (2015); beside a reconstruction: Zavrtanik, Kristan & Skocaj, DRAEM
    (2021).
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.fine = nn.Sequential(_conv(2 * FOLD**2, fine), _conv(fine, fine))
        self.middle = nn.Sequential(_halving_conv(fine, middle), _conv(middle, middle))
        self.coarse = nn.Sequential(_halving_conv(middle, coarse), _conv(coarse, coarse), _conv(coarse, coarse))
        self.to_middle, self.up_middle = nn.Conv2d(coarse, middle, 1), _conv(middle, middle)
        self.to_fine, self.up_fine = nn.Conv2d(middle, fine, 1), _conv(fine, fine)
        self.logits = nn.Conv2d(fine, FOLD**2, 1)

    def forward(self, tiles_B1PP: Tensor, reconstruction_B1PP: Tensor, contrast_B1PP: Tensor) -> Tensor:
        """Logit (B, 1, P, P) of each pixel being cracked."""
        residual = darker_than(reconstruction_B1PP, tiles_B1PP)
        seen = functional.pixel_unshuffle(4 * torch.cat([residual, contrast_B1PP], dim=1), FOLD)
        fine = self.fine(seen.contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        middle = self.up_middle(middle + functional.interpolate(self.to_middle(self.coarse(middle)), scale_factor=2.0))
        fine = self.up_fine(fine + functional.interpolate(self.to_fine(middle), scale_factor=2.0))
        return functional.pixel_shuffle(self.logits(fine), FOLD)


def _conv(inputs: int, outputs: int) -> nn.Module:
    """3x3 convolution and ReLU, without normalisation: a score must not depend on the other tiles of its batch."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU())


def _halving_conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU())


class Output(NamedTuple):
    """Output of one forward pass.

    Attributes:
        reconstruction_B1PP: in (0, 1).
        mu_BZ, logvar_BZ: mean and log-variance of the posterior.
        crack_B1PP: logit of each pixel being cracked; None for a model without a segmenter.
    """

    reconstruction_B1PP: Tensor
    mu_BZ: Tensor
    logvar_BZ: Tensor
    crack_B1PP: Tensor | None


class Network(nn.Module):
    """The ConvVAE and, if the model has one, the segmenter that compares a tile with its reconstruction."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.vae = ConvVAE(spec)
        self.segmenter = Segmenter(spec.segmenter) if spec.segmenter else None

    def forward(
        self, tiles_B1PP: Tensor, noise_BZ: Tensor | None = None, contrast_B1PP: Tensor | None = None
    ) -> Output:
        """Everything that training and the score heads need. No gradient flows from the segmenter to the ConvVAE.

        Args:
            tiles_B1PP: float in [0, 1].
            noise_BZ: standard normal noise to sample z with; None reconstructs without sampling.
            contrast_B1PP: contrast(tiles_B1PP), if the caller has computed it already.
        """
        reconstruction, mu, logvar = self.vae(tiles_B1PP, noise_BZ)
        if self.segmenter is None:
            return Output(reconstruction, mu, logvar, None)
        if contrast_B1PP is None:
            contrast_B1PP = contrast(tiles_B1PP)
        return Output(reconstruction, mu, logvar, self.segmenter(tiles_B1PP, reconstruction.detach(), contrast_B1PP))


def darker_than(reference_B1PP: Tensor, tiles_B1PP: Tensor) -> Tensor:
    """How much darker each pixel is than its reference, relative to it, (B, 1, P, P); negative where lighter."""
    return (reference_B1PP - tiles_B1PP) / (reference_B1PP + BLACK)


def median_of(tiles_B1PP: Tensor) -> Tensor:
    """Median of the pixels of each tile, (B, 1, 1, 1)."""
    return _median(tiles_B1PP.flatten(1)).view(-1, 1, 1, 1)


def contrast(tiles_B1PP: Tensor) -> Tensor:
    """How much darker each pixel is than the tile's median, relative to it, (B, 1, P, P); negative where lighter."""
    return darker_than(median_of(tiles_B1PP), tiles_B1PP)


def _median(values_BN: Tensor) -> Tensor:
    """Lower median of each row, without a gradient; on a CPU with numpy, which takes a tenth of torch's time."""
    n = int(values_BN.shape[1])
    if torch.onnx.is_in_onnx_export():  # ONNX has no median
        return values_BN.topk(n - (n - 1) // 2, dim=1).values[:, -1]
    if values_BN.device.type != "cpu":
        return values_BN.median(dim=1).values
    middle = (n - 1) // 2
    return torch.from_numpy(np.partition(values_BN.detach().numpy(), middle, axis=1)[:, middle])


def squared_error(tiles_B1PP: Tensor, reconstruction_B1PP: Tensor) -> Tensor:
    """Mean squared error of each tile over its pixels, float (B,) [squared grey level, black 0 to white 1]."""
    return (tiles_B1PP - reconstruction_B1PP).square().mean(dim=(1, 2, 3))


def kl_to_prior(mu_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL divergence of each tile's posterior N(mu, diag(exp(logvar))) from N(0, I), float (B,) [nats].

    Never negative; 0 exactly where mu = 0 and logvar = 0.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2014), appendix B.
    """
    return 0.5 * (mu_BZ.square() + logvar_BZ.exp() - 1 - logvar_BZ).sum(dim=1)


def pooled(map_B1PP: Tensor, share: float = 0.01) -> Tensor:
    """Mean of the largest `share` of the values of each map, float (B,).

    A crack covers 1 to 3 % of the pixels of a METU tile, so it hardly changes the mean over all pixels.
    """
    values_BN = map_B1PP.flatten(1)
    n = int(values_BN.shape[1])
    largest = max(1, round(share * n))
    if largest == n:
        return values_BN.mean(dim=1)
    if values_BN.requires_grad or values_BN.device.type != "cpu" or torch.onnx.is_in_onnx_export():
        return values_BN.topk(largest, dim=1).values.mean(dim=1)
    top_BL = np.partition(values_BN.numpy(), -largest, axis=1)[:, -largest:]  # takes a fifth of torch's time
    return torch.from_numpy(top_BL.mean(axis=1))


def to_input(tiles_BPP: Tensor) -> Tensor:
    """uint8 (B, P, P) to the network's input: float32 (B, 1, P, P) in [0, 1], channels last."""
    return (tiles_BPP.unsqueeze(1).float() / 255).contiguous(memory_format=torch.channels_last)
