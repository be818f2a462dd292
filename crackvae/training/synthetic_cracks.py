"""Drawn cracks and blemishes on sound tiles: what the network learns to repair and to find, without a cracked image.

Cracks are labelled in the mask that comes with them; blemishes (stains, bug holes, joints) are not, so that the network
learns to leave them alone. Real sound tiles bring blemishes of their own, which teach the same.

Source of the idea: Zavrtanik, Kristan & Skocaj, DRAEM (2021), which draws noise; cracks have a known shape.

Shape letters: N drawings, B tiles of a batch, P side of a tile at the input [px].
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.images import synthetic

# A drawing is seen in eight orientations and at any depth, so a few thousand last for any number of epochs.
MAX_DRAWINGS = 3000


# Widths [share of the tile's side] of hairlines, of common and of gaping cracks, and how often each is drawn. Without
# the widest a gaping crack, the plainest of all, scored lower than a hairline.
WIDTHS = ((0.005, 0.013), (0.009, 0.04), (0.026, 0.16))


WIDTH_SHARES = (0.35, 0.40, 0.25)


# Shares of the training tiles that get a crack, and that get a blemish.
CRACK_SHARE, BLEMISH_SHARE = 0.5, 0.5


# A pixel is cracked when the crack covers this much of it; a mask of fully covered pixels would lose every hairline.
MASK_COVERAGE = 0.35


# Depth of a crack: the share of the light that is lost in it. Fainter ones would be noise labelled as crack.
DEPTHS = (0.15, 0.90)


EXPOSURES = (0.75, 1.15)


@dataclass(frozen=True)
class Drawings:
    """What is drawn once and laid over tiles many times.

    Attributes:
        cracks_NPP: uint8 (N, P, P), coverage 0 none to 255 all of a pixel.
        blemishes_NPP: int8 (N, P, P), change of the brightness, -127 black to 127 twice as light.
    """

    cracks_NPP: np.ndarray
    blemishes_NPP: np.ndarray


def draw(seed: int, side_px: int, n: int) -> Drawings:
    """Draw `n` cracks and `n` blemishes of tiles with a side of `side_px`; 2 ms each at 128 px."""
    assert side_px >= synthetic.MIN_SIDE_PX, "a training checks its input size before"
    chances = [np.random.default_rng([seed, number]) for number in range(n)]
    return Drawings(
        cracks_NPP=np.stack([_crack(rng, side_px) for rng in chances]),
        blemishes_NPP=np.stack([_blemish(rng, side_px) for rng in chances]),
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
    """The chances of a batch: one draw for every tile, made for the whole batch, of which a worker takes its share.

    Every tensor but `blur_px`, `rim` and `turns` has B as its first dimension.
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
    turns: tuple[int, int, int]

    def of(self, mine: slice) -> "RandomDraws":
        """Those of some tiles of the batch."""
        tensors = {one.name: getattr(self, one.name) for one in fields(self) if one.type is Tensor}
        return replace(self, **{name: tensor[mine] for name, tensor in tensors.items()})


def draw_random(generator: torch.Generator, batch: int, drawings: Drawings, side_px: int) -> RandomDraws:
    """Everything random about the damage of one batch."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def integers(high: int, n: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator)

    n = len(drawings.cracks_NPP)
    step_y, step_x, reach, *turns = (integers(high, 1).item() for high in (3, 3, 2, 8, 8, 8))
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
        turns=(int(turns[0]), int(turns[1]), int(turns[2])),
    )


@dataclass(frozen=True)
class Damaged:
    """Tiles of a training step.

    Attributes:
        input_B1PP, clean_B1PP: float in [0, 1], with the cracks and without them; blemishes are in both.
        mask_B1PP: float, 1 where a crack was drawn.
        is_cracked_B: float, 1 for a tile with a crack.
    """

    input_B1PP: Tensor
    clean_B1PP: Tensor
    mask_B1PP: Tensor
    is_cracked_B: Tensor


def damage(tiles_BPP: Tensor, drawings: Drawings, chances: RandomDraws) -> Damaged:
    """Turn the tiles and their exposure, blemish them all, and draw cracks on some.

    Args:
        tiles_BPP: uint8 (B, P, P), sound.
        chances: of these B tiles.
    """
    side, device = tiles_BPP.shape[-1], tiles_BPP.device

    def each(values_B: Tensor) -> Tensor:
        return values_B.to(device).view(-1, 1, 1, 1)

    def noise(lattice_B1QQ: Tensor) -> Tensor:
        return functional.interpolate(lattice_B1QQ.to(device), size=(side, side), mode="bilinear")

    def picked(drawn_NPP: np.ndarray, index_B: Tensor) -> Tensor:
        return torch.from_numpy(drawn_NPP[index_B.numpy()]).to(device).unsqueeze(1).float()

    blemish = _turned(picked(drawings.blemishes_NPP, chances.blemish_B), chances.turns[1]) / 127
    clean = _turned(tiles_BPP.unsqueeze(1).float(), chances.turns[0]) / 255 * each(chances.exposure_B)
    clean = (clean * (1 + blemish * each(chances.blemish_strength_B))).clamp(0, 1)
    coverage = _turned(picked(drawings.cracks_NPP, chances.crack_B), chances.turns[2]) / 255
    coverage = coverage * each(chances.is_cracked_B)
    soft = _blurred(coverage, chances.blur_px)
    # The floor of a crack is not evenly dark: rubble and dirt catch light. Nor are its edges: one of them may be lit.
    floor = (1 + 0.1 * noise(chances.fine_B1QQ) + 0.2 * noise(chances.coarse_B1QQ)).clamp(0.2, 1.15)
    rim = (torch.roll(soft, chances.rim, (2, 3)) - soft).clamp(min=0)
    light = 1 - each(chances.depth_B) * floor * soft + each(chances.rim_strength_B) * rim
    return Damaged(
        input_B1PP=(clean * light).clamp(0, 1).contiguous(memory_format=torch.channels_last),
        clean_B1PP=clean,
        mask_B1PP=(coverage > MASK_COVERAGE).float(),
        is_cracked_B=chances.is_cracked_B.to(device).float(),
    )


def augment(tiles_BPP: Tensor, generator: torch.Generator, mine: slice) -> Tensor:
    """Tiles in one of their eight orientations each, and in another light, for a training without drawings.

    Args:
        tiles_BPP: uint8, the whole batch, so that chance does not depend on the share that is taken.
        mine: the share of the batch to return.

    Returns:
        float (b, 1, P, P) in [0, 1], channels last.
    """
    orientation_B = torch.randint(8, (len(tiles_BPP),), generator=generator)[mine]
    low, high = EXPOSURES
    exposure_B = (torch.rand(len(tiles_BPP), generator=generator) * (high - low) + low)[mine]
    tiles_b1PP = tiles_BPP[mine].unsqueeze(1).float() / 255
    turned = torch.empty_like(tiles_b1PP)
    for orientation in range(8):
        chosen = orientation_B == orientation
        turned[chosen] = _turned(tiles_b1PP[chosen], orientation)
    return (turned * exposure_B.view(-1, 1, 1, 1)).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _turned(tiles_B1PP: Tensor, orientation: int) -> Tensor:
    """One of the eight orientations of a square, 0 to 7."""
    turned = torch.rot90(tiles_B1PP, orientation % 4, (2, 3))
    return turned.flip(3) if orientation >= 4 else turned


def _blurred(tiles_B1PP: Tensor, sigma_px: float) -> Tensor:
    reach = 2
    weights = [math.exp(-(offset**2) / (2 * sigma_px**2)) for offset in range(-reach, reach + 1)]
    kernel = torch.tensor(weights, device=tiles_B1PP.device) / sum(weights)
    across = functional.conv2d(
        functional.pad(tiles_B1PP, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1)
    )
    return functional.conv2d(functional.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
