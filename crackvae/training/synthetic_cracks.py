"""Synthetic cracks and blemishes on sound tiles: the network learns to remove and to segment them, without real cracks.

Cracks are labelled in the mask that comes with them. Blemishes (stains, bug holes, joints) are not, so the network
learns to ignore them; the blemishes of real sound tiles have the same effect.

Source of the idea: Zavrtanik, Kristan & Skocaj, DRAEM (2021), which adds noise; cracks have a known shape.

Shape letters: N drawings, B tiles of a batch, P side of a tile at the input [px].
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.images import synthetic

# A drawing appears in eight orientations and at any depth, so a few thousand suffice for any number of epochs.
MAX_DRAWINGS = 3000
# Widths [share of the tile's side] of hairline, common and wide cracks, and how often each is drawn. Without the
# widest, a gaping crack, the most obvious of all, scored lower than a hairline.
WIDTHS = ((0.005, 0.013), (0.009, 0.04), (0.026, 0.16))
WIDTH_SHARES = (0.35, 0.40, 0.25)
# Shares of the training tiles that get a crack, and that get a blemish.
CRACK_SHARE, BLEMISH_SHARE = 0.5, 0.5
# A pixel is cracked when the crack covers this much of it; a mask of fully covered pixels would miss every hairline.
MASK_COVERAGE = 0.35
# Depth of a crack: the share of the light that is lost in it. Fainter ones would be noise labelled as crack.
DEPTHS = (0.15, 0.90)
# Factor on the brightness of a tile.
EXPOSURES = (0.75, 1.15)


@dataclass(frozen=True)
class Drawings:
    """Cracks and blemishes that are drawn once and added to tiles many times.

    Attributes:
        cracks_NPP: uint8 (N, P, P), coverage of each pixel, from 0 (none) to 255 (all of it).
        blemishes_NPP: int8 (N, P, P), change of the brightness, from -127 (black) to 127 (twice as bright).
    """

    cracks_NPP: np.ndarray
    blemishes_NPP: np.ndarray


def draw(seed: int, side_px: int, n: int) -> Drawings:
    """Draw `n` cracks and `n` blemishes for tiles with a side of `side_px`; 2 ms each at 128 px."""
    assert side_px >= synthetic.MIN_SIDE_PX, "the settings of a training allow no smaller input"
    generators = [np.random.default_rng([seed, number]) for number in range(n)]
    return Drawings(
        cracks_NPP=np.stack([_crack(rng, side_px) for rng in generators]),
        blemishes_NPP=np.stack([_blemish(rng, side_px) for rng in generators]),
    )


def _crack(rng: np.random.Generator, side_px: int) -> np.ndarray:
    low, high = WIDTHS[rng.choice(len(WIDTHS), p=WIDTH_SHARES)]
    coverage_PP = synthetic.draw_coverage(rng, side_px, peak_px=max(0.7, rng.uniform(low, high) * side_px))
    return (coverage_PP * 255).astype(np.uint8)


def _blemish(rng: np.random.Generator, side_px: int) -> np.ndarray:
    change_PP = synthetic.draw_blemish(rng, side_px)
    return np.clip(change_PP * 127, -127, 127).astype(np.int8)


@dataclass(frozen=True)
class RandomDraws:
    """Random parameters of a batch, one value per tile, drawn for the whole batch; each worker takes its share.

    Every tensor but `blur_px`, `rim` and `orientations` has B as its first dimension.
    """

    crack_B: Tensor
    blemish_B: Tensor
    is_cracked_B: Tensor
    exposure_B: Tensor
    blemish_strength_B: Tensor
    depth_B: Tensor
    rim_strength_B: Tensor
    fine_B1QQ: Tensor
    coarse_B1QQ: Tensor
    blur_px: float
    rim: tuple[int, int]
    orientations: tuple[int, int, int]

    def of(self, share: slice) -> "RandomDraws":
        """The values of some tiles of the batch."""
        tensors = {one.name: getattr(self, one.name) for one in fields(self) if one.type is Tensor}
        return replace(self, **{name: tensor[share] for name, tensor in tensors.items()})

    def cracks_only(self) -> "RandomDraws":
        """The same cracks, one on every tile, without blemishes and with the exposure of the tile."""
        nothing_B = torch.zeros_like(self.exposure_B)
        return replace(
            self,
            is_cracked_B=torch.ones_like(self.is_cracked_B),
            exposure_B=nothing_B + 1,
            blemish_strength_B=nothing_B,
        )


def draw_random(generator: torch.Generator, batch: int, drawings: Drawings, side_px: int) -> RandomDraws:
    """Draw all random parameters of the synthetic cracks and blemishes of one batch."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def integers(high: int, n: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator)

    n = len(drawings.cracks_NPP)
    step_y, step_x, reach, *orientations = (integers(high, 1).item() for high in (3, 3, 2, 8, 8, 8))
    fine, coarse = max(2, side_px // 3), max(2, side_px // 14)
    return RandomDraws(
        crack_B=integers(n, batch),
        blemish_B=integers(n, batch),
        is_cracked_B=uniform(0, 1) < CRACK_SHARE,
        exposure_B=uniform(*EXPOSURES),
        blemish_strength_B=uniform(0.5, 1.3) * (uniform(0, 1) < BLEMISH_SHARE),
        depth_B=uniform(*DEPTHS),
        rim_strength_B=uniform(-0.1, 0.35).clamp(min=0),
        fine_B1QQ=torch.randn(batch, 1, fine, fine, generator=generator),
        coarse_B1QQ=torch.randn(batch, 1, coarse, coarse, generator=generator),
        blur_px=float(torch.rand(1, generator=generator)) * 0.75 + 0.35,
        rim=(int(step_y - 1) * int(reach + 1), int(step_x - 1) * int(reach + 1)),
        orientations=(int(orientations[0]), int(orientations[1]), int(orientations[2])),
    )


@dataclass(frozen=True)
class TrainingBatch:
    """Input and targets of a training step.

    Attributes:
        input_B1PP, clean_B1PP: float in [0, 1], with the cracks and without them; blemishes are in both.
        mask_B1PP: float, 1 where a crack was added.
        is_cracked_B: float, 1 for a tile with a crack.
    """

    input_B1PP: Tensor
    clean_B1PP: Tensor
    mask_B1PP: Tensor
    is_cracked_B: Tensor


def add_synthetic_cracks(tiles_BPP: Tensor, drawings: Drawings, draws: RandomDraws) -> TrainingBatch:
    """Rotate, flip and expose the tiles, add blemishes to all and cracks to some.

    Args:
        tiles_BPP: uint8 (B, P, P), sound.
        draws: of these B tiles.
    """
    side, device = tiles_BPP.shape[-1], tiles_BPP.device

    def each(values_B: Tensor) -> Tensor:
        return values_B.to(device).view(-1, 1, 1, 1)

    def noise(lattice_B1QQ: Tensor) -> Tensor:
        return functional.interpolate(lattice_B1QQ.to(device), size=(side, side), mode="bilinear")

    def chosen(drawn_NPP: np.ndarray, index_B: Tensor) -> Tensor:
        return torch.from_numpy(drawn_NPP[index_B.numpy()]).to(device).unsqueeze(1).float()

    blemish = _reoriented(chosen(drawings.blemishes_NPP, draws.blemish_B), draws.orientations[1]) / 127
    clean = _reoriented(tiles_BPP.unsqueeze(1).float(), draws.orientations[0]) / 255 * each(draws.exposure_B)
    clean = (clean * (1 + blemish * each(draws.blemish_strength_B))).clamp(0, 1)
    coverage = _reoriented(chosen(drawings.cracks_NPP, draws.crack_B), draws.orientations[2]) / 255
    coverage = coverage * each(draws.is_cracked_B)
    soft = _blurred(coverage, draws.blur_px)
    # The bottom of a crack is not uniformly dark, because debris reflects light, and one of its edges may be lit.
    floor = (1 + 0.1 * noise(draws.fine_B1QQ) + 0.2 * noise(draws.coarse_B1QQ)).clamp(0.2, 1.15)
    rim = (torch.roll(soft, draws.rim, (2, 3)) - soft).clamp(min=0)
    light = 1 - each(draws.depth_B) * floor * soft + each(draws.rim_strength_B) * rim
    return TrainingBatch(
        input_B1PP=(clean * light).clamp(0, 1).contiguous(memory_format=torch.channels_last),
        clean_B1PP=clean,
        mask_B1PP=(coverage > MASK_COVERAGE).float(),
        is_cracked_B=draws.is_cracked_B.to(device).float(),
    )


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
        reoriented[chosen] = _reoriented(tiles_b1PP[chosen], orientation)
    return (reoriented * exposure_B.view(-1, 1, 1, 1)).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _reoriented(tiles_B1PP: Tensor, orientation: int) -> Tensor:
    """One of the eight orientations of a square, 0 to 7."""
    rotated = torch.rot90(tiles_B1PP, orientation % 4, (2, 3))
    return rotated.flip(3) if orientation >= 4 else rotated


def _blurred(tiles_B1PP: Tensor, sigma_px: float) -> Tensor:
    reach = 2
    weights = [math.exp(-(offset**2) / (2 * sigma_px**2)) for offset in range(-reach, reach + 1)]
    kernel = torch.tensor(weights, device=tiles_B1PP.device) / sum(weights)
    across = functional.conv2d(
        functional.pad(tiles_B1PP, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1)
    )
    return functional.conv2d(functional.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
