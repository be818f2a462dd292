"""The candidate network at native scale: a ConvVAE of the reduced tile, and a segmenter that sees every pixel.

Shape letters: B tiles of a batch, P side of a tile at the input [px], Q side of the reduced tile, the ConvVAE's input
[px], C channels, Z latent dimensions.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# The ConvVAE sees the tile's mean over squares of this side [px]: it reconstructs the surface behind a crack, which
# varies slowly. At half scale it would cost more than the segmenter.
COARSE = 4
# Side of one cell of the segmenter's finest maps [px]; stride-2 convolutions fold the pixels of a cell into channels.
FOLD = 4
# Initial logit of a pixel: about one in fifty is cracked.
INITIAL_LOGIT = -4.0
# Added to a brightness that is divided by, so that the ratio stays finite on black.
BRIGHTNESS_OFFSET = 0.1
# Side of the square over which the local brightness and the local texture are measured [px at P = 256].
LOCAL_PX = 32
# Texture below this standard deviation [share of the brightness] is sensor noise and JPEG blocks; it is not amplified.
FAINTEST_TEXTURE = 0.012


class ConvVAE(nn.Module):
    """Convolutional variational autoencoder of coarse grey tiles in [0, 1].

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2014).
    """

    def __init__(self, side_px: int, channels: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        pairs = list(pairwise((1, *channels)))
        self.side = side_px >> len(channels)
        features = channels[-1] * self.side**2
        self.encoder = nn.Sequential(*[layer for a, b in pairs for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())])
        self.mu = nn.Linear(features, latent_dim)
        self.logvar = nn.Linear(features, latent_dim)
        self.expand = nn.Linear(latent_dim, features)
        up = [layer for a, b in reversed(pairs) for layer in (nn.ReLU(), nn.ConvTranspose2d(b, a, 4, 2, 1))]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def forward(self, coarse_B1QQ: Tensor, noise_BZ: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, 1, Q, Q), mean, log-variance (B, Z). z is sampled if noise is given, else the mean."""
        features = self.encoder(coarse_B1QQ).flatten(1)
        mu_BZ, logvar_BZ = self.mu(features), self.logvar(features)
        z_BZ = mu_BZ if noise_BZ is None else mu_BZ + noise_BZ * (0.5 * logvar_BZ).exp()
        expanded = self.expand(z_BZ).view(len(z_BZ), -1, self.side, self.side)
        return self.decoder(expanded), mu_BZ, logvar_BZ


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection; the first may be dilated, for context without downsampling.

    No batch normalisation, so a score does not depend on the other tiles of its batch.

    Source: He et al., Deep Residual Learning (2016); Yu & Koltun, Multi-Scale Context Aggregation (2016).
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)
        self.narrow = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        return functional.relu(maps + self.narrow(functional.relu(self.wide(maps))))


class Segmenter(nn.Module):
    """A small U-Net over the pixels of the tile; the receptive field of its coarse branch is the whole tile.

    Source: Ronneberger, Fischer & Brox, U-Net (2015).
    """

    def __init__(self, inputs: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        stem, fine, middle, coarse = channels
        self.stem = _halving(inputs, stem)
        self.fine = nn.Sequential(_halving(stem, fine), _same(fine, fine))
        self.middle = nn.Sequential(_halving(fine, middle), Residual(middle, 2))
        self.coarse = nn.Sequential(_halving(middle, coarse), Residual(coarse, 2), Residual(coarse, 4))
        self.to_middle, self.up_middle = nn.Conv2d(coarse, middle, 1), _same(middle, middle)
        self.to_fine, self.up_fine = nn.Conv2d(middle, fine, 1), _same(fine, fine)
        self.logits = nn.Conv2d(fine, FOLD**2, 1)
        _initialise(self)

    def forward(self, seen_BCPP: Tensor) -> tuple[Tensor, Tensor]:
        """Logit (B, 1, P, P) of each pixel being cracked, and the maps (B, C, P/16, P/16) of the coarse branch."""
        fine = self.fine(self.stem(seen_BCPP))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.up_middle(middle + functional.interpolate(self.to_middle(coarse), scale_factor=2.0))
        fine = self.up_fine(fine + functional.interpolate(self.to_fine(middle), scale_factor=2.0))
        return functional.pixel_shuffle(self.logits(fine), FOLD), coarse


def _initialise(segmenter: Segmenter) -> None:
    """He initialisation: without normalisation layers, the variance must be preserved from layer to layer.

    Source: He et al., Delving Deep into Rectifiers (2015), section 2.2.
    """
    for module in segmenter.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    for residual in (module for module in segmenter.modules() if isinstance(module, Residual)):
        nn.init.zeros_(residual.narrow.weight)  # starts as the identity
    nn.init.normal_(segmenter.logits.weight, std=0.02)
    nn.init.constant_(segmenter.logits.bias, INITIAL_LOGIT)


def _same(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU())


def _halving(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU())


class TileHead(nn.Module):
    """One logit for the tile from the strongest logits of its pixels and from the coarse maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(2 * channels + len(SHARES) + 1, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, logits_B1PP: Tensor, coarse: Tensor) -> Tensor:
        """Logit (B,) of the tile being cracked."""
        parts = [coarse.mean(dim=(2, 3)), coarse.amax(dim=(2, 3)), line_features(logits_B1PP) * 0.2]
        return self.mix(torch.cat(parts, dim=1)).squeeze(1)


# Shares of the cells whose strongest logits are averaged.
SHARES = (0.002, 0.01, 0.03, 0.1)


def line_features(logits_B1PP: Tensor) -> Tensor:
    """Means of the strongest logits of the 4 px cells at several shares, and the mean of all, (B, 5)."""
    cells_BN = functional.max_pool2d(logits_B1PP, FOLD).flatten(1)
    top_BN = cells_BN.topk(round(max(SHARES) * int(cells_BN.shape[1])), dim=1).values
    tops = [top_BN[:, : max(1, round(share * int(cells_BN.shape[1])))].mean(dim=1) for share in SHARES]
    return torch.stack([*tops, cells_BN.mean(dim=1)], dim=1)


class Output(NamedTuple):
    """Outputs of one forward pass.

    Attributes:
        coarse_B1QQ: mean grey levels over squares of COARSE px, the input of the ConvVAE.
        reconstruction_B1QQ: reconstruction of coarse_B1QQ, in (0, 1).
        mu_BZ, logvar_BZ: of the posterior.
        crack_B1PP: logit of each pixel being cracked.
        tile_B: logit of the tile being cracked.
    """

    coarse_B1QQ: Tensor
    reconstruction_B1QQ: Tensor
    mu_BZ: Tensor
    logvar_BZ: Tensor
    crack_B1PP: Tensor
    tile_B: Tensor


class Network(nn.Module):
    """ConvVAE, segmenter and tile head."""

    def __init__(
        self,
        side_px: int = 256,
        channels: tuple[int, int, int, int] = (16, 32, 64, 96),
        vae_channels: tuple[int, ...] = (16, 32, 64, 256),
        latent_dim: int = 128,
        uses_vae: bool = True,
    ) -> None:
        super().__init__()
        self.uses_vae = uses_vae
        self.vae = ConvVAE(side_px // COARSE, vae_channels, latent_dim)
        self.segmenter = Segmenter(3 if uses_vae else 2, channels)
        self.head = TileHead(channels[-1])

    def forward(self, tiles_B1PP: Tensor, noise_BZ: Tensor | None = None) -> Output:
        """Everything that the losses and heads need. The segmenter's gradient does not reach the ConvVAE."""
        coarse = functional.avg_pool2d(tiles_B1PP, COARSE)
        reconstruction, mu, logvar = self.vae(coarse, noise_BZ)
        seen = views(tiles_B1PP, reconstruction.detach() if self.uses_vae else None)
        crack, maps = self.segmenter(seen.contiguous(memory_format=torch.channels_last))
        return Output(coarse, reconstruction, mu, logvar, crack, self.head(crack, maps))


def views(tiles_B1PP: Tensor, reconstruction_B1QQ: Tensor | None) -> Tensor:
    """Input channels of the segmenter, (B, C, P, P). Each says how much darker a pixel is than a reference.

    1. the local mean, as a share of it;
    2. the same in standard deviations of the tile's texture: a difference that is visible on a smooth wall may not be
       on gravel;
    3. the ConvVAE's reconstruction, as a share of it, if given.
    """
    local = local_mean(tiles_B1PP)
    darker = (local - tiles_B1PP) / (local + BRIGHTNESS_OFFSET)
    texture = (darker.square().mean(dim=(2, 3), keepdim=True) + FAINTEST_TEXTURE**2).sqrt()
    seen = [3 * darker, 0.5 * (darker / texture).clamp(-6, 6)]
    if reconstruction_B1QQ is not None:
        surface = functional.interpolate(reconstruction_B1QQ, scale_factor=float(COARSE), mode="bilinear")
        seen.append(3 * (surface - tiles_B1PP) / (surface + BRIGHTNESS_OFFSET))
    return torch.cat(seen, dim=1)


def local_mean(tiles_B1PP: Tensor) -> Tensor:
    """Mean over about LOCAL_PX px around each pixel, by average pooling and interpolation, (B, 1, P, P)."""
    half = LOCAL_PX // 2
    squares = functional.avg_pool2d(tiles_B1PP, half)
    squares = functional.avg_pool2d(functional.pad(squares, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return functional.interpolate(squares, scale_factor=float(half), mode="bilinear")


def to_input(tiles_BPP: Tensor) -> Tensor:
    """uint8 (B, P, P) to float32 (B, 1, P, P) in [0, 1]."""
    return tiles_BPP.unsqueeze(1).float() / 255
