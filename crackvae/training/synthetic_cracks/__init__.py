"""Synthetic cracks and blemishes on sound tiles: the network learns to segment them, without real cracks.

A tile is rotated, scaled and re-exposed. Blemishes (joints, holes, edges of the surface, stains) are added and labelled
sound, so the network learns to ignore them; the blemishes of real sound tiles have the same effect. On half of the
tiles a crack is added, with a depth relative to the texture of the tile. Finally the tile is blurred, made noisy and
compressed, so that the crack and its surface are degraded in the same way.

Source of the idea: Zavrtanik, Kristan & Skocaj, DRAEM (2021), which adds noise; cracks have a known shape.

Shape letters: B tiles of a batch, b of them on this worker, P side of a tile at the input [px], N drawings.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.training.synthetic_cracks.drawings import Drawings
from crackvae.training.synthetic_cracks.filters import blurred, compressed

# A drawing appears in eight orientations and at any depth, so a few thousand suffice for any number of epochs.
MAX_DRAWINGS = 2000
# Shares of the tiles with a crack and with a blemish.
CRACK_SHARE, BLEMISH_SHARE = 0.5, 0.6
# Coverage above which a pixel is labelled cracked; hairlines never cover a pixel completely.
MASK_COVERAGE = 0.3
# Where a blemish darkens by more than this share of the brightness, no crack can be seen, and none is drawn.
DARKEST_BLEMISH = -0.6
# Number of tiles that share orientation, scale, blur and compression: one operation per group is cheaper.
GROUP = 8
# Share of the groups that are rescaled, and bounds of the relative side of the square that becomes a tile, log-uniform.
SCALED_SHARE, SCALES = 0.6, (0.5, 1.6)
# Share of the groups of which a part is enlarged together with its cracks, and the smallest relative side of that part:
# the edges of a crack in a close-up are soft.
CLOSE_SHARE, CLOSEST = 0.25, 0.35
# Contrast of a crack after its edges are softened: a multiple of the texture's standard deviation (log-uniform), or a
# share of the brightness (uniform). A line below FAINTEST standard deviations is not visible and is not drawn.
TEXTURE_SHARE, TEXTURE_CONTRASTS, DEPTHS, FAINTEST = 0.55, (1.0, 6.0), (0.15, 0.95), 0.8
# A crack that covers more than this share of its tile gapes: no light returns from its floor, and its edges are high.
GAPING_SHARE, GAPING_DEPTHS, GAPING_TILES = 0.02, (0.5, 0.97), 0.85
# Minimum contrast [share of the brightness]; less is lost in quantization and noise.
FAINTEST_CONTRAST = 0.025
# Shares of the cracks that are lighter than the surface (dust, salt), and with a wet, a lit and a spalled edge.
LIGHT_SHARE, WET_SHARE, LIT_SHARE, SPALLED_SHARE = 0.05, 0.10, 0.4, 0.15
# Widths of a lit or shaded edge [px].
REACHES_PX = (1, 2, 3, 6, 12)
# Share of the groups in which two surfaces meet in a tile, and of the cracks whose floor has a different texture.
PATCHED_SHARE, OWN_FLOOR_SHARE = 0.1, 0.5
# Share of the groups with debris in their cracks.
DEBRIS_SHARE = 0.25
# Factor on the brightness of a tile in augment().
EXPOSURES = (0.75, 1.15)
# Shares of the groups that are blurred, made noisy and compressed.
BLUR_SHARE, NOISE_SHARE, COMPRESSED_SHARE = 0.35, 0.3, 0.35


@dataclass(frozen=True)
class TrainingBatch:
    """Input and targets of a training step.

    Attributes:
        input_B1PP, clean_B1PP: float in [0, 1], with the cracks and without them; blemishes are in both.
        coverage_B1PP: float in 0..1, share of each pixel that the synthetic crack covers.
        is_cracked_B: float, 1 for a tile with a crack.
    """

    input_B1PP: Tensor
    clean_B1PP: Tensor
    coverage_B1PP: Tensor
    is_cracked_B: Tensor


def add_synthetic_cracks(
    tiles_BPP: Tensor, drawings: Drawings, generator: torch.Generator, share: slice = slice(None)
) -> TrainingBatch:
    """Augment sound tiles, add blemishes to most and cracks to half of them, and degrade the result.

    Everything random is drawn for the whole batch: a worker's share of it is the same for any number of workers.

    Args:
        tiles_BPP: uint8 (B, P, P), the whole batch, sound.
        share: the tiles of the batch to return.

    Returns:
        The batch of these b tiles.
    """
    groups = [_training_group(group_BPP, drawings, draws) for group_BPP, draws in _groups(tiles_BPP, generator, share)]
    return TrainingBatch(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def add_cracks_only(tiles_BPP: Tensor, drawings: Drawings, generator: torch.Generator) -> TrainingBatch:
    """A crack on every tile, which is otherwise unchanged."""
    groups = []
    for group_BPP, draws in _groups(tiles_BPP, generator, slice(None)):
        clean = group_BPP.unsqueeze(1).float() / 255
        coverage = draws.picked(drawings.cracks_NPP).float() / 255
        factor, _ = _light(coverage, clean, draws)
        groups.append(((clean * factor).clamp(0, 1), clean, coverage, torch.ones(len(clean), device=clean.device)))
    return TrainingBatch(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def augment(tiles_BPP: Tensor, generator: torch.Generator, share: slice) -> Tensor:
    """Random rotation, flip and exposure of each tile, for training without drawings.

    Args:
        tiles_BPP: uint8, the whole batch, so that the random values do not depend on the share.
        share: the tiles of the batch to return.

    Returns:
        float (b, 1, P, P) in [0, 1], channels last.
    """
    orientation_B = torch.randint(8, (len(tiles_BPP),), generator=generator)[share]
    low, high = EXPOSURES
    exposure_B = (torch.rand(len(tiles_BPP), generator=generator) * (high - low) + low)[share]
    tiles_b1PP = tiles_BPP[share].unsqueeze(1).float() / 255
    reoriented = torch.empty_like(tiles_b1PP)
    for orientation in range(8):
        chosen = orientation_B == orientation
        reoriented[chosen] = _turned(tiles_b1PP[chosen], orientation)
    return (reoriented * exposure_B.view(-1, 1, 1, 1)).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _groups(tiles_BPP: Tensor, generator: torch.Generator, share: slice) -> Iterator[tuple[Tensor, "_RandomDraws"]]:
    """The batch in groups of GROUP tiles, with the random numbers of each; groups outside `share` are left out."""
    chosen_B = torch.zeros(len(tiles_BPP), dtype=torch.bool)
    chosen_B[share] = True
    for group_BPP, is_chosen in zip(tiles_BPP.split(GROUP), chosen_B.split(GROUP), strict=True):
        seed = int(torch.randint(2**62, (1,), generator=generator))
        if is_chosen.any():
            own = torch.Generator().manual_seed(seed)
            yield group_BPP, _RandomDraws(own, len(group_BPP), torch.nonzero(is_chosen).flatten(), tiles_BPP.device)


def _training_group(tiles_BPP: Tensor, drawings: Drawings, draw: "_RandomDraws") -> tuple[Tensor, ...]:
    """The fields of TrainingBatch of the chosen tiles of one group."""
    side = tiles_BPP.shape[-1]
    tiles = _rescaled(_turned(tiles_BPP.unsqueeze(1).float() / 255, draw.integer(8)), draw)
    clean, other = tiles[draw.chosen], tiles.roll(1, 0)[draw.chosen]
    clean = (clean * draw.each(0.65, 1.15)).clamp(0, 1) ** draw.each(0.8, 1.25)
    blemish = draw.picked(drawings.blemishes_NPP).float() / 127
    blemish = blemish * draw.each(0.3, 1.2) * draw.each_is(BLEMISH_SHARE)
    clean = clean * (1 + blemish).clamp(min=0)
    if draw.happens(PATCHED_SHARE):
        clean = torch.where(_side_of_a_line(draw, side), clean, other)
    coverage = draw.picked(drawings.cracks_NPP).float() / 255
    is_cracked = draw.each_is(CRACK_SHARE)
    coverage = coverage * is_cracked * (blemish > DARKEST_BLEMISH)
    is_cracked = (coverage > MASK_COVERAGE).flatten(1).any(dim=1).float()
    factor, soft = _light(coverage, clean, draw)
    # The floor of a crack may have another texture than the surface.
    own_floor = draw.each_is(OWN_FLOOR_SHARE)
    other = other * (clean.mean((2, 3), True) + 0.05) / (other.mean((2, 3), True) + 0.05)
    cracked = torch.lerp(clean, other, soft * own_floor) * factor
    if draw.happens(CLOSE_SHARE):
        close = _close_up(torch.cat([cracked, clean, coverage], dim=1), draw)
        cracked, clean, coverage = close.split(1, dim=1)
    cracked, clean = _degraded(cracked, clean, draw)
    return cracked, clean, coverage, is_cracked.flatten()


class _RandomDraws:
    """The random numbers of one group, drawn in a fixed order for all of its tiles; tensors are of the chosen ones."""

    def __init__(self, generator: torch.Generator, size: int, chosen: Tensor, device: torch.device) -> None:
        self.generator, self.size, self.chosen, self.device = generator, size, chosen, device

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self.generator))

    def happens(self, share: float) -> bool:
        return self.number(0, 1) < share

    def each(self, low: float, high: float) -> Tensor:
        return low + (high - low) * self._kept(torch.rand(self.size, 1, 1, 1, generator=self.generator))

    def each_is(self, share: float) -> Tensor:
        return (self.each(0, 1) < share).float()

    def each_log(self, low: float, high: float) -> Tensor:
        return low * (high / low) ** self.each(0, 1)

    def normal(self, side: int) -> Tensor:
        return self._kept(torch.randn(self.size, 1, side, side, generator=self.generator))

    def noise(self, side: int, cell_px: int) -> Tensor:
        return functional.interpolate(self.normal(side // cell_px + 1), size=(side, side), mode="bilinear")

    def picked(self, drawn_NPP: np.ndarray) -> Tensor:
        """A random drawing for each tile, all in the same random orientation."""
        index = torch.randint(len(drawn_NPP), (self.size,), generator=self.generator)[self.chosen].numpy()
        return _turned(torch.from_numpy(drawn_NPP[index]).to(self.device).unsqueeze(1), self.integer(8))

    def _kept(self, values: Tensor) -> Tensor:
        return values[self.chosen].to(self.device)


def _rescaled(tiles_B1PP: Tensor, draw: _RandomDraws) -> Tensor:
    """A random square of each tile, or of the tile and its mirror images around it, in the size of the tile."""
    side = tiles_B1PP.shape[-1]
    low, high = SCALES
    cut = round(side * low * (high / low) ** draw.number(0, 1)) if draw.happens(SCALED_SHARE) else side
    y, x = draw.integer(abs(side - cut) + 1), draw.integer(abs(side - cut) + 1)
    if cut <= side:
        squares = tiles_B1PP[:, :, y : y + cut, x : x + cut]
    else:
        squares = functional.pad(tiles_B1PP, (x, cut - side - x, y, cut - side - y), mode="reflect")
    if cut == side:
        return squares
    return functional.interpolate(squares, size=(side, side), mode="bilinear", antialias=cut > side)


def _close_up(maps_B3PP: Tensor, draw: _RandomDraws) -> Tensor:
    """A square of each tile around a random pixel of its crack, if it has one, in the size of the tile.

    Args:
        maps_B3PP: channels that are enlarged together, the coverage by the crack last.
    """
    side = maps_B3PP.shape[-1]
    cut = round(side * CLOSEST ** draw.number(0, 1))
    middles_B = ((maps_B3PP[:, -1:] + 1e-3) * draw.normal(side).abs()).flatten(1).argmax(dim=1)
    corners = [
        (min(max(0, middle // side - cut // 2), side - cut), min(max(0, middle % side - cut // 2), side - cut))
        for middle in middles_B.tolist()
    ]
    squares = [tile_3PP[:, y : y + cut, x : x + cut] for tile_3PP, (y, x) in zip(maps_B3PP, corners, strict=True)]
    return functional.interpolate(torch.stack(squares), size=(side, side), mode="bilinear")


def _side_of_a_line(draw: _RandomDraws, side: int) -> Tensor:
    """True on one side of a random line through the middle of the tile, bool (B, 1, P, P)."""
    angle = draw.number(0, 2 * math.pi)
    steps = torch.arange(side, device=draw.device) - side / 2
    across = math.cos(angle) * steps[:, None] + math.sin(angle) * steps[None]
    return across + draw.noise(side, 32) * draw.each(0, 8) * draw.each_is(0.5) > draw.each(-0.3, 0.3) * side


def _light(coverage: Tensor, clean: Tensor, draw: _RandomDraws) -> tuple[Tensor, Tensor]:
    """Brightness factor of every pixel (floor, edges and surroundings of the crack), and the softened coverage."""
    side = clean.shape[-1]
    soft = blurred(coverage, draw.number(0.3, 1.1))
    if draw.happens(0.3):  # deepest in the middle
        soft = 0.5 * soft + 0.5 * blurred(coverage, draw.number(1.2, 2.5)) * soft
    floor = (1 + 0.15 * draw.noise(side, 3) + 0.2 * draw.noise(side, 16)).clamp(0.1, 1.2)
    if draw.happens(DEBRIS_SHARE):
        floor = floor * (1 - (0.9 * draw.noise(side, 8) - 0.3).clamp(0, 1))
    depth = _depth(clean, coverage, soft, draw)
    factor = 1 - depth * floor * soft
    reach = REACHES_PX[draw.integer(len(REACHES_PX))]
    step = [(0, reach), (reach, 0), (0, -reach), (-reach, 0), (reach, reach), (-reach, reach)][draw.integer(6)]
    rim = (torch.roll(soft, step, (2, 3)) - soft).clamp(min=0)
    factor = factor + rim * draw.each(-0.15, 0.4) * draw.each_is(LIT_SHARE)
    if draw.happens(SPALLED_SHARE):
        beside = (blurred(coverage, 2.5) * 3).clamp(0, 1) * (draw.noise(side, 5) > draw.number(0, 1)).float()
        factor = factor + beside * (1 - soft) * draw.each(-0.3, 0.3)
    if draw.happens(2 * WET_SHARE):
        near = functional.avg_pool2d(functional.avg_pool2d(coverage, 16), 3, 1, 1)
        wide = functional.interpolate(near, scale_factor=16.0, mode="bilinear")
        wet = ((wide * 20).clamp(0, 1) + 0.25 * draw.noise(side, 16) > 0.5).float() * coverage.amax((2, 3), True)
        factor = factor * (1 - blurred(wet, 2.0) * draw.each(0.05, 0.4) * draw.each_is(0.5))
    return factor, soft


def _depth(clean: Tensor, coverage: Tensor, soft: Tensor, draw: _RandomDraws) -> Tensor:
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
    gapes = (coverage.mean(dim=(2, 3), keepdim=True) > GAPING_SHARE) & (draw.each(0, 1) < GAPING_TILES)
    depth = torch.where(gapes, torch.maximum(depth, draw.each(*GAPING_DEPTHS)), depth)
    depth = torch.maximum(depth, (FAINTEST * texture).clamp(min=FAINTEST_CONTRAST) / seen)
    return depth.clamp(max=0.97) * (1 - 1.5 * draw.each_is(LIGHT_SHARE))


def _degraded(cracked: Tensor, clean: Tensor, draw: _RandomDraws) -> tuple[Tensor, Tensor]:
    """Uneven illumination for both images; blur, noise and compression for the input of the network only."""
    side = cracked.shape[-1]
    if draw.happens(0.35):  # vignetting, a gradient, a soft shadow
        slope = functional.interpolate(draw.normal(3), size=(side, side), mode="bilinear", align_corners=True)
        light = 1 + slope * draw.each(0, 0.15)
        cracked, clean = cracked * light, clean * light
    if draw.happens(BLUR_SHARE):
        cracked = blurred(cracked, draw.number(0.3, 1.1))
    elif draw.happens(0.15):
        cracked = _motion(cracked, draw)
    if draw.happens(NOISE_SHARE):
        cracked = cracked + draw.each(0, 0.03) * draw.normal(side)
    cracked, clean = cracked.clamp(0, 1), clean.clamp(0, 1)
    if draw.happens(COMPRESSED_SHARE):
        cracked = compressed(cracked, draw.number(0.01, 0.09)).clamp(0, 1)
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


def _turned(tiles: Tensor, orientation: int) -> Tensor:
    """One of the eight rotations and reflections of a square, 0 to 7."""
    turned = torch.rot90(tiles, orientation % 4, (2, 3))
    return turned.flip(3) if orientation >= 4 else turned
