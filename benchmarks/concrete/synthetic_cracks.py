"""Training tiles: synthetic cracks and blemishes composited with real sound tiles, then degraded together.

A tile is rotated, scaled and re-exposed. Blemishes (joints, holes, stains) are added and labelled sound. On half of the
tiles a crack is added, with a depth relative to the texture of the tile. Finally the image is blurred, made noisy and
compressed, so that the crack and its surface are degraded in the same way.

Source: Zavrtanik, Kristan & Skocaj, DRAEM (2021), which uses noise textures where this module uses cracks.

Shape letters: B tiles of a batch, P side of a tile at the input [px], N drawings of a library.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .drawings import Library

# Shares of the tiles with a crack and with a blemish.
CRACK_SHARE, BLEMISH_SHARE = 0.5, 0.6
# Coverage above which a pixel is labelled cracked; hairlines never cover a pixel completely.
MASK_COVERAGE = 0.3
# Number of tiles that share orientation, scale, blur and compression: one operation per group is cheaper.
GROUP = 8
# Share of the groups that are rescaled, and bounds of the relative side of the crop, log-uniform.
SCALED_SHARE, SCALES = 0.6, (0.5, 1.25)
# Contrast of a crack after its edges are softened: a multiple of the texture's standard deviation (log-uniform), or a
# share of the brightness (uniform). A line below FAINTEST standard deviations is not visible and is not drawn.
TEXTURE_SHARE, TEXTURE_CONTRASTS, DEPTHS, FAINTEST = 0.55, (1.0, 6.0), (0.15, 0.95), 0.8
# Minimum contrast [share of the brightness]; less is lost in quantization and noise.
FAINTEST_CONTRAST = 0.025
# Shares of the cracks that are lighter than the surface (dust, salt), and with a wet, a lit and a spalled edge.
LIGHT_SHARE, WET_SHARE, LIT_SHARE, SPALLED_SHARE = 0.05, 0.10, 0.4, 0.15
# Share of the groups in which two surfaces meet in a tile, and of the cracks whose floor has a different texture.
PATCHED_SHARE, OWN_FLOOR_SHARE = 0.1, 0.5
# Share of the groups with debris in their cracks.
DEBRIS_SHARE = 0.25
# Shares of the groups that are blurred, made noisy and compressed.
BLUR_SHARE, NOISE_SHARE, COMPRESSED_SHARE = 0.35, 0.3, 0.35


@dataclass(frozen=True)
class Damaged:
    """Inputs and targets of a training step.

    Attributes:
        input_B1PP, clean_B1PP: float in [0, 1], with the cracks and without them; blemishes are in both.
        coverage_B1PP: float in 0..1, share of each pixel that the synthetic crack covers.
        is_cracked_B: float, 1 for a tile with a crack.
    """

    input_B1PP: Tensor
    clean_B1PP: Tensor
    coverage_B1PP: Tensor
    is_cracked_B: Tensor


def damage(tiles_BPP: Tensor, library: Library, generator: torch.Generator) -> Damaged:
    """Augment sound tiles, add blemishes and cracks, and degrade the result.

    Args:
        tiles_BPP: uint8 (B, P, P) or larger squares, sound; B is a multiple of GROUP.
    """
    groups = [_damage_group(group, library, generator) for group in tiles_BPP.split(GROUP)]
    return Damaged(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def _damage_group(tiles_BPP: Tensor, library: Library, generator: torch.Generator) -> tuple[Tensor, ...]:
    """damage() of one group: the fields of Damaged."""
    batch, side = len(tiles_BPP), library.cracks_NPP.shape[-1]
    draw = _RandomDraws(generator, batch)
    clean = _scaled(_turned(tiles_BPP.unsqueeze(1).float() / 255, draw.integer(8)), draw, side)
    clean = (clean * draw.each(0.65, 1.15)).clamp(0, 1) ** draw.each(0.8, 1.25)
    blemish = draw.picked(library.blemishes_NPP).float() / 127
    clean = clean * (1 + blemish * draw.each(0.3, 1.2) * draw.each_is(BLEMISH_SHARE))
    other = clean.roll(1, 0)
    if draw.happens(PATCHED_SHARE):
        clean = torch.where(_side_of_a_line(draw, side), clean, other)
    coverage = draw.picked(library.cracks_NPP).float() / 255
    is_cracked = draw.each_is(CRACK_SHARE)
    coverage = coverage * is_cracked
    factor, soft = _light(coverage, clean, draw)
    # The floor of a crack may have another texture than the surface.
    own_floor = draw.each_is(OWN_FLOOR_SHARE)
    other = other * (clean.mean((2, 3), True) + 0.05) / (other.mean((2, 3), True) + 0.05)
    cracked = torch.lerp(clean, other, soft * own_floor) * factor
    cracked, clean = _degraded(cracked, clean, draw)
    return cracked, clean, coverage, is_cracked.flatten()


class _RandomDraws:
    """The random numbers of one group, drawn in a fixed order."""

    def __init__(self, generator: torch.Generator, batch: int) -> None:
        self.generator, self.batch = generator, batch

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.generator))

    def happens(self, share: float) -> bool:
        return self.number(0, 1) < share

    def each(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.batch, 1, 1, 1, generator=self.generator)

    def each_is(self, share: float) -> Tensor:
        return (self.each(0, 1) < share).float()

    def each_log(self, low: float, high: float) -> Tensor:
        return low * (high / low) ** self.each(0, 1)

    def noise(self, side: int, cell_px: int) -> Tensor:
        lattice = torch.randn(self.batch, 1, side // cell_px + 1, side // cell_px + 1, generator=self.generator)
        return functional.interpolate(lattice, size=(side, side), mode="bilinear")

    def picked(self, drawn_NPP: np.ndarray) -> Tensor:
        """A random drawing for each tile, all in the same random orientation."""
        index = torch.randint(len(drawn_NPP), (self.batch,), generator=self.generator).numpy()
        return _turned(torch.from_numpy(drawn_NPP[index]).unsqueeze(1), self.integer(8))


def _scaled(tiles_B1PP: Tensor, draw: _RandomDraws, side: int) -> Tensor:
    """Random square crop, resized to the side of a tile; larger tiles are always cropped."""
    given = tiles_B1PP.shape[-1]
    low, high = SCALES[0] * side, min(SCALES[1] * side * (2 if given > side else 1), given)
    cut = round(low * (high / low) ** draw.number(0, 1)) if draw.happens(SCALED_SHARE) else min(side, given)
    y, x = draw.integer(given - cut + 1), draw.integer(given - cut + 1)
    tiles_B1PP = tiles_B1PP[:, :, y : y + cut, x : x + cut]
    if cut == side:
        return tiles_B1PP
    return functional.interpolate(tiles_B1PP, size=(side, side), mode="bilinear", antialias=cut > side)


def _side_of_a_line(draw: _RandomDraws, side: int) -> Tensor:
    """True on one side of a random line through the middle of the tile, bool (B, 1, P, P)."""
    angle = draw.number(0, 2 * math.pi)
    steps = torch.arange(side) - side / 2
    across = math.cos(angle) * steps[:, None] + math.sin(angle) * steps[None]
    return across + draw.noise(side, 32) * draw.each(0, 8) * draw.each_is(0.5) > draw.each(-0.3, 0.3) * side


def _light(coverage: Tensor, clean: Tensor, draw: _RandomDraws) -> tuple[Tensor, Tensor]:
    """Brightness factor of every pixel (floor, edges and surroundings of the crack), and the softened coverage."""
    side = clean.shape[-1]
    soft = _blurred(coverage, draw.number(0.3, 1.1))
    if draw.happens(0.3):  # deepest in the middle
        soft = 0.5 * soft + 0.5 * _blurred(coverage, draw.number(1.2, 2.5)) * soft
    floor = (1 + 0.15 * draw.noise(side, 3) + 0.2 * draw.noise(side, 16)).clamp(0.1, 1.2)
    if draw.happens(DEBRIS_SHARE):
        floor = floor * (1 - (0.9 * draw.noise(side, 8) - 0.3).clamp(0, 1))
    depth = _depth(clean, soft, draw)
    factor = 1 - depth * floor * soft
    reach = 1 + draw.integer(3)
    step = [(0, reach), (reach, 0), (0, -reach), (-reach, 0), (reach, reach), (-reach, reach)][draw.integer(6)]
    rim = (torch.roll(soft, step, (2, 3)) - soft).clamp(min=0)
    factor = factor + rim * draw.each(-0.15, 0.4) * draw.each_is(LIT_SHARE)
    if draw.happens(SPALLED_SHARE):
        beside = (_blurred(coverage, 2.5) * 3).clamp(0, 1) * (draw.noise(side, 5) > draw.number(0, 1)).float()
        factor = factor + beside * (1 - soft) * draw.each(-0.3, 0.3)
    if draw.happens(2 * WET_SHARE):
        near = functional.avg_pool2d(functional.avg_pool2d(coverage, 16), 3, 1, 1)
        wide = functional.interpolate(near, scale_factor=16.0, mode="bilinear")
        wet = ((wide * 20).clamp(0, 1) + 0.25 * draw.noise(side, 16) > 0.5).float() * coverage.amax((2, 3), True)
        factor = factor * (1 - _blurred(wet, 2.0) * draw.each(0.05, 0.4) * draw.each_is(0.5))
    return factor, soft


def _depth(clean: Tensor, soft: Tensor, draw: _RandomDraws) -> Tensor:
    """Relative darkening of the floor of each tile's crack, (B, 1, 1, 1); negative is lighter.

    Softening reduces the visible contrast by the factor `seen`, the mean softened coverage over the crack's own pixels.
    """
    local, squares = functional.avg_pool2d(clean, 8), functional.avg_pool2d(clean.square(), 8)
    variance = (squares - local.square()).clamp(min=0) / (local + 0.1).square()
    texture = variance.mean(dim=(2, 3), keepdim=True).sqrt()
    seen = soft.square().sum((2, 3), True) / soft.sum((2, 3), True).clamp(min=1)
    seen = seen.clamp(min=0.1)
    relative = draw.each_log(*TEXTURE_CONTRASTS) * texture / seen
    depth = torch.where(draw.each(0, 1) < TEXTURE_SHARE, relative, draw.each(*DEPTHS))
    depth = torch.maximum(depth, torch.maximum(FAINTEST * texture, torch.tensor(FAINTEST_CONTRAST)) / seen)
    return depth.clamp(max=0.97) * (1 - 1.5 * draw.each_is(LIGHT_SHARE))


def _degraded(cracked: Tensor, clean: Tensor, draw: _RandomDraws) -> tuple[Tensor, Tensor]:
    """Uneven illumination for both images; blur, noise and compression for the input of the network only."""
    side = cracked.shape[-1]
    if draw.happens(0.35):  # vignetting, a gradient, a soft shadow
        slope = functional.interpolate(
            torch.randn(len(clean), 1, 3, 3, generator=draw.generator),
            size=(side, side),
            mode="bilinear",
            align_corners=True,
        )
        light = 1 + slope * draw.each(0, 0.15)
        cracked, clean = cracked * light, clean * light
    if draw.happens(BLUR_SHARE):
        cracked = _blurred(cracked, draw.number(0.3, 1.1))
    elif draw.happens(0.15):
        cracked = _motion(cracked, draw)
    if draw.happens(NOISE_SHARE):
        cracked = cracked + draw.each(0, 0.03) * torch.randn(cracked.shape, generator=draw.generator)
    cracked, clean = cracked.clamp(0, 1), clean.clamp(0, 1)
    if draw.happens(COMPRESSED_SHARE):
        cracked = _compressed(cracked, draw.number(0.01, 0.09)).clamp(0, 1)
    return cracked, clean


def _motion(tiles: Tensor, draw: _RandomDraws) -> Tensor:
    """Motion blur in one of four directions over 3 or 5 px."""
    reach = 1 + draw.integer(2)
    dy, dx = [(0, 1), (1, 0), (1, 1), (1, -1)][draw.integer(4)]
    padded = functional.pad(tiles, (reach, reach, reach, reach), mode="replicate")
    side = tiles.shape[-1]
    parts = [
        padded[:, :, reach + k * dy : reach + k * dy + side, reach + k * dx : reach + k * dx + side]
        for k in range(-reach, reach + 1)
    ]
    return sum(parts[1:], parts[0]) / len(parts)


def _cosines() -> Tensor:
    """Orthonormal basis of the DCT of 8 samples, (8, 8)."""
    n = torch.arange(8.0)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis


def _compressed(tiles: Tensor, step: float) -> Tensor:
    """Quantization of 8x8 DCT coefficients, coarser at higher frequencies, as in JPEG.

    Source: Wallace, The JPEG still picture compression standard (1992); the table here is linear, not the standard's.
    """
    batch, _, side, _ = tiles.shape
    basis = _cosines()
    blocks = tiles.view(batch, side // 8, 8, side // 8, 8).transpose(2, 3)
    waves = basis @ blocks @ basis.T
    order = torch.arange(8.0)
    table = step * (0.6 + 0.35 * (order[:, None] + order[None]))
    waves = (waves / table).round() * table
    return (basis.T @ waves @ basis).transpose(2, 3).reshape(batch, 1, side, side)


def _turned(tiles: Tensor, orientation: int) -> Tensor:
    """One of the eight rotations and reflections of a square, 0 to 7."""
    turned = torch.rot90(tiles, orientation % 4, (2, 3))
    return turned.flip(3) if orientation >= 4 else turned


def _blurred(tiles: Tensor, sigma_px: float) -> Tensor:
    """Separable Gaussian blur, truncated at 2.2 standard deviations."""
    reach = max(1, math.ceil(2.2 * sigma_px))
    weights = torch.tensor([math.exp(-(k**2) / (2 * sigma_px**2)) for k in range(-reach, reach + 1)])
    weights = weights / weights.sum()
    padded = functional.pad(tiles, (reach, reach, reach, reach), mode="replicate")
    side = tiles.shape[-1]
    across = padded[:, :, :, :side] * weights[0]
    for k in range(1, 2 * reach + 1):
        across = across + padded[:, :, :, k : k + side] * weights[k]
    blurred = across[:, :, :side] * weights[0]
    for k in range(1, 2 * reach + 1):
        blurred = blurred + across[:, :, k : k + side] * weights[k]
    return blurred
