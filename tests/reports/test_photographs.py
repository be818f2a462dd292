"""Whole photographs: which tiles are explained, and that a partial map is that of the whole photograph there."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import small_spec, write_model
from PIL import Image

from crackvae.images.synthetic import draw_image
from crackvae.images.tiles import grid_of, stitch, stitch_some
from crackvae.model.artifact import load_model
from crackvae.model.inference import explain
from crackvae.reports import photographs
from crackvae.reports.photographs import tiles_to_explain, view_photograph


def test_all_tiles_of_a_small_photograph_are_explained() -> None:
    assert tiles_to_explain(np.zeros((4, 5)), 1).tolist() == list(range(20))


def test_flagged_tiles_and_their_neighbours_are_explained_first() -> None:
    scores = np.random.default_rng(0).random((30, 40))
    scores[10, 12:20] = 2
    chosen = set(tiles_to_explain(scores, threshold=1.0).tolist())
    assert len(chosen) <= photographs.MAX_TILES
    assert {row * 40 + col for row in (9, 10, 11) for col in range(11, 21)} <= chosen


def test_a_partial_map_is_that_of_the_whole_photograph_where_all_tiles_are_explained() -> None:
    grid = grid_of(300, 400, tile_px=64, stride_px=48)
    maps = np.random.default_rng(1).random((grid.rows * grid.cols, 32, 32)).astype(np.float32)
    whole = stitch(maps, grid, 300, 400)
    every = np.arange(len(maps))
    assert stitch_some(maps, every, grid, 300, 400) == pytest.approx(whole, abs=1e-6)
    some = every[every % grid.cols < 4]
    part = stitch_some(maps[some], some, grid, 300, 400)
    assert part[:, : grid.xs[4]] == pytest.approx(whole[:, : grid.xs[4]], abs=1e-6)
    assert not part[:, grid.xs[3] + 64 :].any()


def test_scores_boxes_and_map_of_a_photograph_are_those_of_its_tiles(tmp_path: Path) -> None:
    model = load_model(str(write_model(tmp_path / "model", small_spec(head="mse"))))
    pixels, _ = draw_image(5, 1, True, 230)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    pixels_HW = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    explanation = explain(model, pixels_HW)
    row = {"image": str(tmp_path / "p.png"), "height": 230, "width": 230, "threshold": 0.02}
    with ThreadPoolExecutor(2) as executor:
        found = view_photograph(row, explanation.tile_scores.ravel(), True, model, executor, n_worst=3)
    assert found is not None and np.array_equal(found.tile_scores, explanation.tile_scores)
    worst = np.unravel_index(int(explanation.tile_scores.argmax()), explanation.tile_scores.shape)
    assert found.worst[0][:3] == (explanation.xs[worst[1]], explanation.ys[worst[0]], explanation.tile_scores.max())
    assert found.view.box is not None and found.view.box.left == explanation.xs[worst[1]] / 230
    assert found.view.anomaly_hw == pytest.approx(explanation.anomaly_HW, abs=1e-5)
    assert found.n_explained == explanation.tile_scores.size
    assert found.n_flagged == int((explanation.tile_scores > 0.02).sum())


def test_a_tile_without_a_surface_is_neither_boxed_nor_among_the_worst(tmp_path: Path) -> None:
    model = load_model(str(write_model(tmp_path / "model", small_spec(head="mse"))))
    Image.fromarray(np.full((112, 160), 128, np.uint8)).save(tmp_path / "p.png")
    row = {"image": str(tmp_path / "p.png"), "height": 112, "width": 160, "threshold": 0.25}
    scores_T = np.array([np.nan, 0.1, np.nan, 0.2, 0.3, np.nan])
    with ThreadPoolExecutor(1) as executor:
        found = view_photograph(row, scores_T, False, model, executor, n_worst=6)
    assert found is not None and [one[2] for one in found.worst] == [0.3, 0.2, 0.1]
    x, y = found.worst[0][:2]
    assert found.view.box is not None and (found.view.box.left, found.view.box.top) == (x / 160, y / 112) != (0, 0)
    assert found.n_flagged == 1


def test_a_photograph_that_was_replaced_is_not_explained(tmp_path: Path) -> None:
    model = load_model(str(write_model(tmp_path / "model", small_spec(head="mse"))))
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(tmp_path / "p.png")
    row = {"image": str(tmp_path / "p.png"), "height": 230, "width": 230, "threshold": 0.02}
    with ThreadPoolExecutor(1) as executor:
        assert view_photograph(row, np.zeros(25), True, model, executor, n_worst=3) is None
