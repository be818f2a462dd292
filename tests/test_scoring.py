"""Score heads, and the row of the scores table that each image becomes."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_spec, write_model
from PIL import Image

from crackvae import scoring, storage, tables
from crackvae.config import HEADS
from crackvae.errors import UnreadableImage
from crackvae.imaging import cut
from crackvae.scoring import Scorer, decode_images, explain, load_scorer, score_decoded, score_tiles


def png(pixels: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def listing(*names: str, error: str = "") -> pa.Table:
    rows = [
        {"image": name, "bytes": 1, "modified": datetime(2026, 1, 1, tzinfo=UTC), "error": error, "group": "g"}
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=storage.LISTING_SCHEMA.append(pa.field("group", pa.string())))


def darkest_pixel(tiles_TPP: np.ndarray) -> np.ndarray:
    """A stand-in for the network: a black pixel is a crack."""
    return (255.0 - tiles_TPP.min(axis=(1, 2), initial=255)).astype(np.float32) / 255


@pytest.fixture(scope="module")
def scorer(model_dir: Path) -> Scorer:
    return load_scorer(str(model_dir))


def test_the_heads_are_those_of_the_settings() -> None:
    assert set(scoring.HEADS) == set(HEADS)


def test_mse_is_the_mean_and_top_the_mean_of_the_top_1_percent() -> None:
    error_map = torch.arange(20_000.0).reshape(2, 100, 100)
    assert scoring.mse(error_map).tolist() == pytest.approx([4999.5, 14999.5])
    assert scoring.top(error_map).tolist() == [9_949.5, 19_949.5]


def test_a_few_bad_pixels_raise_top_more_than_mse() -> None:
    flat, crack = torch.full((1, 128, 128), 0.01), torch.full((1, 128, 128), 0.01)
    crack[0, 64, :] = 0.5
    assert scoring.top(crack) / scoring.top(flat) > 10 > scoring.mse(crack) / scoring.mse(flat)


def test_a_score_depends_on_its_tile_alone_to_the_last_bit(scorer: Scorer) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (70, 32, 32), np.uint8)
    together = score_tiles(scorer.model, tiles, batch=32)
    alone = np.concatenate([score_tiles(scorer.model, tiles[n : n + 1], batch=32) for n in range(70)])
    backwards = score_tiles(scorer.model, tiles[::-1], batch=32)[::-1]
    assert together.tolist() == alone.tolist() == backwards.tolist()
    assert together.tolist() == score_tiles(scorer.model, tiles, batch=7).tolist()


def test_no_tiles_have_no_scores(scorer: Scorer) -> None:
    assert score_tiles(scorer.model, np.empty((0, 32, 32), np.uint8), batch=8).shape == (0,)


def test_a_score_is_the_head_of_the_squared_residual(scorer: Scorer) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    model = replace(scorer.model, spec=replace(scorer.model.spec, head="mse"))
    inputs = torch.from_numpy(tiles)[:, None] / 255
    with torch.no_grad():
        expected = (inputs - model.network(inputs)[0]).square().mean(dim=(1, 2, 3))
    assert np.allclose(score_tiles(model, tiles, batch=4), expected, rtol=1e-5)


def test_every_image_is_a_row_whatever_happens_to_it(scorer: Scorer) -> None:
    def read(image: str) -> bytes:
        if image == "too large":
            raise UnreadableImage("larger than 1 byte")
        if image == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return {"good": png(np.full((64, 64), 200, np.uint8)), "empty": b"", "text": b"no image"}[image]

    images = pa.concat_tables([listing("good", "empty", "text", "gone", "too large"), listing("pipe", error="no file")])
    decoded = pa.concat_tables(decode_images(images, scorer.model.spec, read))
    rows = score_decoded(decoded, scorer, "run", darkest_pixel).to_pylist()
    assert [(row["image"], row["status"]) for row in rows] == [
        ("good", "scored"), ("empty", "unreadable"), ("text", "unreadable"), ("gone", "unreachable"),
        ("too large", "unreadable"), ("pipe", "unreadable"),
    ]  # fmt: skip
    assert [row["error"] for row in rows[3:]] == ["No such file or directory", "larger than 1 byte", "no file"]
    assert all((row["error"] == "") == (row["status"] == "scored") for row in rows)
    assert all(np.isnan(row["score"]) and np.isnan(row["p_value"]) and not row["flagged"] for row in rows[1:])


def test_rows_have_every_column_in_one_type_and_no_null(scorer: Scorer) -> None:
    decoded = pa.concat_tables(decode_images(listing("empty"), scorer.model.spec, lambda _: b""))
    rows = score_decoded(decoded, scorer, "run", darkest_pixel)
    assert rows.schema == tables.SCORES_SCHEMA
    assert all(column.null_count == 0 for column in rows.columns)


def test_a_crack_in_the_last_corner_is_found_and_located(scorer: Scorer) -> None:
    pixels = np.full((150, 250), 200, np.uint8)
    pixels[147:, 247:] = 0
    decoded = pa.concat_tables(decode_images(listing("photo"), scorer.model.spec, lambda _: png(pixels)))
    (row,) = score_decoded(decoded, scorer, "run", darkest_pixel).to_pylist()
    assert (row["width"], row["height"], row["rows"], row["cols"]) == (250, 150, 3, 5)
    assert (row["worst_x"], row["worst_y"]) == (250 - 64, 150 - 64)
    assert len(row["tile_scores"]) == 15 and row["score"] == row["tile_scores"][-1] == max(row["tile_scores"])
    assert row["flagged"]


def test_the_p_value_of_a_photograph_counts_its_tiles(scorer: Scorer) -> None:
    pixels = np.full((64, 250), 255, np.uint8)
    pixels[:, :8] = 248
    decoded = pa.concat_tables(decode_images(listing("photo"), scorer.model.spec, lambda _: png(pixels)))
    (row,) = score_decoded(decoded, scorer, "run", darkest_pixel).to_pylist()
    one_tile = (1 + (scorer.calibration.scores_N >= np.float32(row["score"])).sum()) / 100
    assert row["rows"] * row["cols"] == 5
    assert row["p_value"] == pytest.approx(min(1, 5 * one_tile))


def test_flagged_is_score_above_the_threshold_as_written_in_the_row(scorer: Scorer) -> None:
    def at_threshold(tiles_TPP: np.ndarray) -> np.ndarray:
        above = np.nextafter(np.float32(scorer.calibration.threshold), np.float32(1))
        return np.array([scorer.calibration.threshold, above], np.float32)

    whole = png(np.full((64, 64), 200, np.uint8))
    decoded = pa.concat_tables(decode_images(listing("a", "b"), scorer.model.spec, lambda _: whole))
    rows = score_decoded(decoded, scorer, "run", at_threshold).to_pylist()
    assert [row["flagged"] for row in rows] == [False, True]
    assert all(row["flagged"] == (row["score"] > row["threshold"]) for row in rows)


def test_decoding_hands_over_in_bounded_bites(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WAITING_TILES", 4)
    whole = png(np.full((64, 64), 200, np.uint8))
    names = [f"{n:02d}" for n in range(10)]
    bites = list(decode_images(listing(*names), scorer.model.spec, lambda _: whole))
    assert [bite.num_rows for bite in bites] == [4, 4, 2]
    assert pa.concat_tables(bites)["image"].to_pylist() == names


def test_a_calibration_of_other_weights_is_refused(tmp_path: Path) -> None:
    from crackvae.errors import ModelError

    model, other = (write_model(tmp_path / str(seed), small_spec(seed=seed)) for seed in (1, 2))
    (model / "calibration.json").write_bytes((other / "calibration.json").read_bytes())
    with pytest.raises(ModelError, match="other weights"):
        load_scorer(str(model))


@pytest.mark.parametrize("shape", [(64, 64), (70, 90), (160, 230)])
def test_an_explanation_has_the_size_of_its_image_and_the_scores_of_its_tiles(
    model_dir: Path, shape: tuple[int, int]
) -> None:
    model = load_scorer(str(model_dir)).model
    pixels_HW = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    threads = torch.get_num_threads()
    explanation = explain(model, pixels_HW)
    assert torch.get_num_threads() == threads
    assert explanation.reconstruction_HW.shape == explanation.anomaly_HW.shape == shape
    assert explanation.reconstruction_HW.dtype == np.uint8 and explanation.anomaly_HW.dtype == np.float32
    tiles = cut(pixels_HW, model.spec.tile_px, model.spec.stride_px, model.spec.input_px)
    expected = score_tiles(model, tiles.pixels_TPP, batch=8).reshape(tiles.rows, tiles.cols)
    np.testing.assert_allclose(explanation.tile_scores, expected, rtol=1e-4)
    assert (explanation.xs, explanation.ys) == (tiles.xs, tiles.ys)


def test_the_anomaly_map_is_the_squared_difference_to_the_reconstruction(model_dir: Path) -> None:
    model = load_scorer(str(model_dir)).model
    side = model.spec.input_px
    pixels_HW = np.random.default_rng(1).integers(0, 255, (side, side), dtype=np.uint8)  # seen without resizing
    explanation = explain(model, pixels_HW)
    residual_HW = (pixels_HW.astype(float) - explanation.reconstruction_HW) / 255
    np.testing.assert_allclose(explanation.anomaly_HW, residual_HW**2, atol=2 / 255)
