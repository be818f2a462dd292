"""Synthetic cracks and blemishes on sound tiles, and the drawings that they are made of."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crackvae.training.synthetic_cracks import (
    CRACK_SHARE,
    DARKEST_BLEMISH,
    MASK_COVERAGE,
    TrainingBatch,
    add_cracks_only,
    add_synthetic_cracks,
)
from crackvae.training.synthetic_cracks.blemishes import BLEMISH_SHARES, BLEMISHES, Blemish
from crackvae.training.synthetic_cracks.drawings import Drawings, draw

SIDE, BATCH = 64, 40
FIELDS = ("input_B1PP", "clean_B1PP", "coverage_B1PP", "is_cracked_B")


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return draw(3, SIDE, 60)


@pytest.fixture(scope="module")
def surface() -> Tensor:
    rng = np.random.default_rng(7)
    return torch.from_numpy(np.clip(rng.normal(160, 4, (BATCH, SIDE, SIDE)), 0, 255).astype(np.uint8))


def batch_of(surface: Tensor, drawings: Drawings, seed: int = 0, share: slice = slice(None)) -> TrainingBatch:
    return add_synthetic_cracks(surface, drawings, torch.Generator().manual_seed(seed), share)


def test_the_same_seed_draws_the_same_and_another_seed_something_else(drawings: Drawings) -> None:
    again, other = draw(3, SIDE, 60), draw(4, SIDE, 60)
    assert np.array_equal(drawings.cracks_NPP, again.cracks_NPP)
    assert np.array_equal(drawings.blemishes_NPP, again.blemishes_NPP)
    assert not np.array_equal(drawings.cracks_NPP, other.cracks_NPP)


def test_a_drawing_depends_on_its_number_alone() -> None:
    few, many = draw(3, SIDE, 5), draw(3, SIDE, 9)
    assert np.array_equal(few.cracks_NPP, many.cracks_NPP[:5])
    assert np.array_equal(few.blemishes_NPP, many.blemishes_NPP[:5])


def test_cracks_of_every_width_are_drawn(drawings: Drawings) -> None:
    covered = (drawings.cracks_NPP > 127).mean(axis=(1, 2))
    assert covered.min() < 0.01 and 0.1 < covered.max() < 0.6
    assert drawings.blemishes_NPP.min() < -20 < 0 < drawings.blemishes_NPP.max()


@pytest.mark.parametrize("kind", BLEMISHES)
def test_every_kind_of_blemish_changes_a_tile_without_covering_all_tiles(kind: Blemish) -> None:
    changes = [kind(np.random.default_rng([9, number]), SIDE) for number in range(20)]
    assert all(one.shape == (SIDE, SIDE) and np.isfinite(one).all() for one in changes)
    assert max(np.abs(one).max() for one in changes) > 0.05
    assert min((np.abs(one) > 0.5).mean() for one in changes) < 0.5
    assert sum(BLEMISH_SHARES) == pytest.approx(1) and len(BLEMISH_SHARES) == len(BLEMISHES)


def test_no_crack_is_drawn_where_a_blemish_is_too_dark_to_show_one(
    surface: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crackvae.training.synthetic_cracks.BLEMISH_SHARE", 1.0)
    monkeypatch.setattr("crackvae.training.synthetic_cracks.PATCHED_SHARE", 0.0)
    crack, dark = np.zeros((1, SIDE, SIDE), np.uint8), np.full((1, SIDE, SIDE), -127, np.int8)
    crack[:, 30:34] = 255
    made = [batch_of(surface, Drawings(crack, dark), seed) for seed in range(5)]
    brightness = torch.cat([one.clean_B1PP.mean(dim=(1, 2, 3)) for one in made])
    is_cracked = torch.cat([one.is_cracked_B for one in made]) > 0
    # Blemishes darken by 0.3 to 1.2 of their depth, so that half of the tiles with a crack can show none.
    assert is_cracked.any() and brightness[is_cracked].min() > (1 + DARKEST_BLEMISH) * 0.3 > brightness.min()


@pytest.mark.parametrize("seed", range(5))
def test_most_marked_pixels_are_darker_than_the_surface_and_a_sound_tile_has_none(
    surface: Tensor, drawings: Drawings, seed: int
) -> None:
    made = batch_of(surface, drawings, seed)
    cracked = made.coverage_B1PP > MASK_COVERAGE
    # A few cracks are filled with light dust or salt.
    assert (made.input_B1PP[cracked] < made.clean_B1PP[cracked]).float().mean() > 0.8
    assert made.input_B1PP[cracked].mean() < 0.85 * made.clean_B1PP[cracked].mean()
    assert not made.coverage_B1PP[made.is_cracked_B == 0].any()
    assert (made.coverage_B1PP[made.is_cracked_B == 1].amax(dim=(1, 2, 3)) > MASK_COVERAGE).all()


def test_a_close_up_shows_a_part_of_the_crack_larger(
    surface: Tensor, drawings: Drawings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for share in (0.0, 1.0):
        monkeypatch.setattr("crackvae.training.synthetic_cracks.CLOSE_SHARE", share)
        made = [batch_of(surface, drawings, seed) for seed in range(5)]
        assert all((one.coverage_B1PP.amax(dim=(1, 2, 3)) > 0).equal(one.is_cracked_B > 0) for one in made)
        shares.append(
            np.mean([float((one.coverage_B1PP[one.is_cracked_B > 0] > MASK_COVERAGE).float().mean()) for one in made])
        )
    assert shares[1] > 1.3 * shares[0]


def test_values_stay_pixels_and_about_half_of_the_tiles_are_cracked(surface: Tensor, drawings: Drawings) -> None:
    made = [batch_of(surface, drawings, seed) for seed in range(10)]
    for one in made:
        assert one.input_B1PP.min() >= 0 and one.input_B1PP.max() <= 1
        assert one.input_B1PP.shape == one.clean_B1PP.shape == one.coverage_B1PP.shape == (BATCH, 1, SIDE, SIDE)
    assert float(torch.cat([one.is_cracked_B for one in made]).mean()) == pytest.approx(CRACK_SHARE, abs=0.1)


@pytest.mark.parametrize("world", [2, 3, 16])
def test_workers_together_have_the_batch_of_a_single_one(surface: Tensor, drawings: Drawings, world: int) -> None:
    whole = batch_of(surface, drawings)
    for rank in range(world):
        share = slice(rank, None, world)
        of_worker = batch_of(surface, drawings, share=share)
        assert all(torch.equal(getattr(of_worker, name), getattr(whole, name)[share]) for name in FIELDS)


def test_tiles_are_turned_and_rescaled() -> None:
    ramp = torch.arange(SIDE, dtype=torch.uint8).repeat(8, SIDE, 1) * 3 + 30
    nothing = Drawings(np.zeros((1, SIDE, SIDE), np.uint8), np.zeros((1, SIDE, SIDE), np.int8))
    seen = [batch_of(ramp, nothing, seed).clean_B1PP[0, 0] for seed in range(40)]
    slopes = {(round(float(one.diff(dim=0).mean()), 3), round(float(one.diff(dim=1).mean()), 3)) for one in seen}
    directions = {(np.sign(down), np.sign(right)) for down, right in slopes}
    assert {(0, 1), (0, -1), (1, 0), (-1, 0)} <= directions and len(slopes) > 8


def test_cracks_only_puts_a_crack_on_every_tile_and_changes_nothing_else(surface: Tensor, drawings: Drawings) -> None:
    made = add_cracks_only(surface, drawings, torch.Generator().manual_seed(0))
    assert torch.equal(made.clean_B1PP, surface.unsqueeze(1).float() / 255)
    assert made.is_cracked_B.all() and (made.coverage_B1PP.amax(dim=(1, 2, 3)) > MASK_COVERAGE).all()
    assert (made.input_B1PP != made.clean_B1PP).any(dim=(1, 2, 3)).all()
