"""Synthetic cracks and blemishes on sound tiles."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from crackvae.training.synthetic_cracks import (
    CRACK_SHARE,
    Drawings,
    RandomDraws,
    TrainingBatch,
    add_synthetic_cracks,
    draw,
    draw_random,
)

SIDE, BATCH = 64, 40
PLAIN = torch.full((BATCH, SIDE, SIDE), 160, dtype=torch.uint8)


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return draw(3, SIDE, 60)


def draws_of(drawings: Drawings, seed: int = 0, batch: int = BATCH) -> RandomDraws:
    return draw_random(torch.Generator().manual_seed(seed), batch, drawings, SIDE)


def batch_of(drawings: Drawings, seed: int = 0) -> TrainingBatch:
    return add_synthetic_cracks(PLAIN, drawings, draws_of(drawings, seed))


def test_the_same_seed_draws_the_same_and_another_seed_something_else(drawings: Drawings) -> None:
    again, other = draw(3, SIDE, 60), draw(4, SIDE, 60)
    assert np.array_equal(drawings.cracks_NPP, again.cracks_NPP)
    assert np.array_equal(drawings.blemishes_NPP, again.blemishes_NPP)
    assert not np.array_equal(drawings.cracks_NPP, other.cracks_NPP)


def test_cracks_of_every_width_are_drawn(drawings: Drawings) -> None:
    covered = (drawings.cracks_NPP > 127).mean(axis=(1, 2))
    assert covered.min() < 0.01 and covered.max() > 0.1
    assert drawings.blemishes_NPP.min() < -20 < 0 < drawings.blemishes_NPP.max()


def test_a_marked_pixel_is_darker_than_the_clean_tile_and_a_sound_tile_is_clean(drawings: Drawings) -> None:
    made = batch_of(drawings)
    cracked = made.mask_B1PP.bool()
    assert (made.input_B1PP[cracked] <= made.clean_B1PP[cracked] + 0.05).float().mean() > 0.98
    assert made.input_B1PP[cracked].mean() < 0.8 * made.clean_B1PP[cracked].mean()
    is_sound = made.is_cracked_B == 0
    assert torch.equal(made.input_B1PP[is_sound], made.clean_B1PP[is_sound])
    assert not made.mask_B1PP[is_sound].any()


def test_values_stay_pixels_and_about_half_of_the_tiles_are_cracked(drawings: Drawings) -> None:
    made = [batch_of(drawings, seed) for seed in range(10)]
    for one in made:
        assert one.input_B1PP.min() >= 0 and one.input_B1PP.max() <= 1
        assert one.input_B1PP.shape == one.clean_B1PP.shape == one.mask_B1PP.shape == (BATCH, 1, SIDE, SIDE)
    assert float(torch.cat([one.is_cracked_B for one in made]).mean()) == pytest.approx(CRACK_SHARE, abs=0.1)


def test_a_worker_gives_its_share_the_cracks_that_a_single_worker_would(drawings: Drawings) -> None:
    whole, draws = batch_of(drawings), draws_of(drawings)
    for rank in range(3):
        share_of_batch = slice(rank, None, 3)
        share = add_synthetic_cracks(PLAIN[share_of_batch], drawings, draws.of(share_of_batch))
        for name in ("input_B1PP", "clean_B1PP", "mask_B1PP", "is_cracked_B"):
            assert torch.allclose(getattr(share, name), getattr(whole, name)[share_of_batch], atol=1e-6)


def test_every_tensor_of_the_draws_is_split_between_workers(drawings: Drawings) -> None:
    share = draws_of(drawings).of(slice(0, 7))
    assert all(len(value) == 7 for one in fields(share) if isinstance(value := getattr(share, one.name), Tensor))


@pytest.mark.slow
def test_all_eight_orientations_differ(drawings: Drawings) -> None:
    tiles = torch.from_numpy(np.random.default_rng(0).integers(60, 200, (1, SIDE, SIDE)).astype(np.uint8))
    draws = draws_of(drawings, batch=1)
    plain = replace(draws, blemish_strength_B=torch.zeros(1), exposure_B=torch.ones(1))
    seen = [
        add_synthetic_cracks(tiles, drawings, replace(plain, orientations=(number, 0, 0))).clean_B1PP
        for number in range(8)
    ]
    assert torch.allclose(seen[0], tiles.unsqueeze(1) / 255)
    assert len({one.numpy().tobytes() for one in seen}) == 8
    assert all(one.sum() == pytest.approx(float(seen[0].sum()), rel=1e-5) for one in seen)


def test_cracks_only_puts_a_crack_on_every_tile_and_changes_nothing_else(drawings: Drawings) -> None:
    made = add_synthetic_cracks(PLAIN, drawings, draws_of(drawings).cracks_only())
    assert made.is_cracked_B.all() and torch.allclose(made.clean_B1PP, torch.tensor(160 / 255))
    assert (made.input_B1PP < made.clean_B1PP).flatten(1).any(dim=1).all()
