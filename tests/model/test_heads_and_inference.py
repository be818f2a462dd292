"""Score heads, and the row of the scores table that each image becomes."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_spec, write_model
from PIL import Image

from crackvae.config import HEADS
from crackvae.errors import UnreadableImage
from crackvae.images import decoded
from crackvae.images.decoded import decode_images
from crackvae.images.tiles import cut
from crackvae.model import heads
from crackvae.model.heads import fit_yardstick, heads_of, one_line, scores_of
from crackvae.model.inference import Scorer, explain, load_scorer, score_tiles
from crackvae.model.network import Output, enlarged, to_input
from crackvae.model.spec import Yardstick
from crackvae.scoring.rows import score_decoded
from crackvae.storage.listing import LISTING_SCHEMA
from crackvae.storage.tables.measures import MEASURED_SCHEMA


def png(pixels: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def listing(*names: str, error: str = "") -> pa.Table:
    rows = [
        {"image": name, "bytes": 1, "modified": datetime(2026, 1, 1, tzinfo=UTC), "error": error, "group": "g"}
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA.append(pa.field("group", pa.string())))


def surface(height: int, width: int, grey: int = 200) -> np.ndarray:
    """Grey pixels with a fine texture: one even grey would be taken for a frame that shows no surface."""
    noise_HW = np.random.default_rng(0).integers(-3, 4, (height, width))
    return (grey + noise_HW).astype(np.uint8)


def darkest_pixel(tiles_TPP: np.ndarray) -> np.ndarray:
    """A stand-in for the network: a black pixel is a crack."""
    return (255.0 - tiles_TPP.min(axis=(1, 2), initial=255)).astype(np.float32)[:, None] / 255


@pytest.fixture(scope="module")
def scorer(model_dir: Path) -> Scorer:
    return load_scorer(str(model_dir))


def test_the_heads_are_those_of_the_settings() -> None:
    assert set(heads.HEADS) == set(HEADS)


def pass_of(input_B1PP: torch.Tensor, reconstruction: float = 0.0, crack: float = 0.0) -> Output:
    """What a network could give for some tiles."""
    nothing = torch.zeros(len(input_B1PP), 4)
    return Output(torch.full_like(input_B1PP, reconstruction), nothing, nothing, torch.full_like(input_B1PP, crack))


def test_mse_is_the_mean_of_the_squared_residuals() -> None:
    tiles = torch.arange(20_000.0).sqrt().reshape(2, 1, 100, 100)
    assert scores_of(small_spec(), "mse", tiles, pass_of(tiles)).tolist() == pytest.approx([4999.5, 14999.5])


def test_on_an_even_tile_evidence_is_that_of_the_segmenter_and_has_no_ceiling() -> None:
    tiles = torch.full((1, 1, 128, 128), 0.5)
    scores = [
        scores_of(small_spec(), "evidence", tiles, pass_of(tiles, crack=logit)).item()
        for logit in (-20.0, 0.0, 20.0, 40.0)
    ]
    assert scores == pytest.approx([0, np.log(2), 20, 40], abs=1e-6)


def test_a_dark_line_has_more_evidence_than_a_light_one() -> None:
    tiles = torch.full((3, 1, 64, 64), 0.6)
    tiles[1, :, 32], tiles[2, :, 32] = 0.1, 0.9
    even, dark, light = scores_of(small_spec(), "evidence", tiles, pass_of(tiles)).tolist()
    assert even == light == pytest.approx(np.log(2)) and dark > 1.2 * even
    darker = scores_of(small_spec(darkness_weight=3.0), "evidence", tiles, pass_of(tiles))
    assert darker[1] > 1.2 * dark and darker[0] == even


def test_texture_is_that_of_the_surface_and_not_of_a_crack() -> None:
    rng = np.random.default_rng(5)
    smooth, rough = (rng.normal(0.5, deviation, (64, 64)) for deviation in (0.01, 0.05))
    cracked = smooth.copy()
    cracked[:, 30:33] = 0.1
    tiles = torch.from_numpy(np.stack([smooth, cracked, rough])[:, None]).float()
    of_smooth, of_cracked, of_rough = scores_of(small_spec(), "texture", tiles, pass_of(tiles)).tolist()
    assert of_smooth == pytest.approx(0.01 / 0.6, rel=0.1) and of_rough == pytest.approx(0.05 / 0.6, rel=0.1)
    assert of_cracked == pytest.approx(of_smooth, rel=0.2)


def test_the_baseline_is_the_one_line_of_numpy_it_says() -> None:
    tiles = np.random.default_rng(3).integers(0, 256, (5, 64, 64), np.uint8)
    pixels = tiles.reshape(5, -1) / 255
    expected = np.median(pixels, axis=1) - np.percentile(pixels, 1, axis=1)
    assert one_line(to_input(torch.from_numpy(tiles))).numpy() == pytest.approx(expected, abs=1e-6)


def test_every_head_and_the_baseline_come_from_one_pass(scorer: Scorer) -> None:
    tiles = np.random.default_rng(2).integers(0, 256, (5, 32, 32), np.uint8)
    extra_heads = (*heads_of(scorer.model.spec), heads.BASELINE)
    together = score_tiles(scorer.model, tiles, batch=4, extra_heads=extra_heads)
    assert together.shape == (5, 1 + len(extra_heads))
    for number, head in enumerate(heads_of(scorer.model.spec), start=1):
        model = replace(scorer.model, spec=replace(scorer.model.spec, head=head))
        assert together[:, number].tolist() == score_tiles(model, tiles, batch=4)[:, 0].tolist()


def test_a_model_without_a_segmenter_has_no_crack_head() -> None:
    assert heads_of(small_spec(segmenter=(), head="mse")) == ("mse",)


def test_a_score_depends_on_its_tile_alone_to_the_last_bit(scorer: Scorer) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (70, 32, 32), np.uint8)
    together = score_tiles(scorer.model, tiles, batch=32)
    alone = np.concatenate([score_tiles(scorer.model, tiles[n : n + 1], batch=32) for n in range(70)])
    backwards = score_tiles(scorer.model, tiles[::-1], batch=32)[::-1]
    assert together.tolist() == alone.tolist() == backwards.tolist()
    # Another shape may be summed in another order: the same to seven digits, and no further.
    assert score_tiles(scorer.model, tiles, batch=7) == pytest.approx(together, rel=1e-5)


def test_no_tiles_have_no_scores(scorer: Scorer) -> None:
    assert score_tiles(scorer.model, np.empty((0, 32, 32), np.uint8), batch=8).shape == (0, 1)


def test_a_score_is_the_head_of_the_squared_residual(scorer: Scorer) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    model = replace(scorer.model, spec=replace(scorer.model.spec, head="mse"))
    inputs = torch.from_numpy(tiles)[:, None] / 255
    with torch.no_grad():
        expected = (inputs - enlarged(model.network(inputs)[0], inputs)).square().mean(dim=(1, 2, 3))
    assert np.allclose(score_tiles(model, tiles, batch=4)[:, 0], expected, rtol=1e-5)


def test_every_image_is_a_row_whatever_happens_to_it(scorer: Scorer) -> None:
    def read(image: str) -> bytes:
        if image == "too large":
            raise UnreadableImage("larger than 1 byte")
        if image == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return {"good": png(surface(64, 64)), "empty": b"", "text": b"no image"}[image]

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


def test_rows_have_every_column_in_one_type_and_no_null_but_an_unknown_time(scorer: Scorer) -> None:
    decoded = pa.concat_tables(decode_images(listing("empty"), scorer.model.spec, lambda _: b""))
    rows = score_decoded(decoded, scorer, "run", darkest_pixel)
    assert rows.schema == MEASURED_SCHEMA
    assert all(column.null_count == 0 for column in rows.drop_columns(["taken"]).columns)


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
    pixels = surface(64, 250, grey=240)
    decoded = pa.concat_tables(decode_images(listing("photo"), scorer.model.spec, lambda _: png(pixels)))
    (row,) = score_decoded(decoded, scorer, "run", darkest_pixel).to_pylist()
    one_tile = (1 + (scorer.calibration.scores_N >= np.float32(row["score"])).sum()) / 100
    assert row["rows"] * row["cols"] == 5
    assert row["p_value"] == pytest.approx(min(1, 5 * one_tile))


def test_flagged_is_score_above_the_threshold_as_written_in_the_row(scorer: Scorer) -> None:
    def at_threshold(tiles_TPP: np.ndarray) -> np.ndarray:
        above = np.nextafter(np.float32(scorer.calibration.threshold), np.float32(1))
        return np.array([[scorer.calibration.threshold], [above]], np.float32)

    whole = png(surface(64, 64))
    decoded = pa.concat_tables(decode_images(listing("a", "b"), scorer.model.spec, lambda _: whole))
    rows = score_decoded(decoded, scorer, "run", at_threshold).to_pylist()
    assert [row["flagged"] for row in rows] == [False, True]
    assert all(row["flagged"] == (row["score"] > row["threshold"]) for row in rows)


def test_decoding_hands_over_in_bounded_bites(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "WAITING_TILES", 4)
    whole = png(surface(64, 64))
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


# ------------------------------------------------------------------------------------------------ photographs

# A photograph of 24 Mpx at the published scale of tiles.
PHOTO_W, PHOTO_H, TILE_PX, STRIDE_PX = 6000, 4000, 227, 170


@pytest.fixture(scope="module")
def wall() -> np.ndarray:
    """Grey concrete without a crack, (PHOTO_H, PHOTO_W)."""
    return np.random.default_rng(0).integers(150, 160, (PHOTO_H, PHOTO_W), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
@pytest.mark.parametrize("bottom", [False, True], ids=["top", "bottom"])
def test_a_crack_of_2_px_in_any_corner_of_a_photograph_raises_the_tile_of_that_corner(
    scorer: Scorer, wall: np.ndarray, right: bool, bottom: bool
) -> None:
    pixels = wall.copy()
    y, x = (PHOTO_H - 2 if bottom else 0), (PHOTO_W - 20 if right else 0)
    pixels[y : y + 2, x : x + 20] = 20
    spec = replace(scorer.model.spec, tile_px=TILE_PX, stride_px=STRIDE_PX)
    (decoded,) = decode_images(listing("wall.png"), spec, lambda _: png(pixels))
    row = score_decoded(decoded, scorer, "run", darkest_pixel).to_pylist()[0]
    assert (row["rows"], row["cols"], len(row["tile_scores"])) == (24, 35, 840)
    corner = (23 if bottom else 0) * 35 + (34 if right else 0)
    raised = [
        number for number, tile_score in enumerate(row["tile_scores"]) if tile_score > row["tile_scores"][400] + 0.1
    ]
    assert raised == [corner] and int(np.argmax(row["tile_scores"])) == corner
    assert row["worst_x"] == (PHOTO_W - TILE_PX if right else 0)
    assert row["worst_y"] == (PHOTO_H - TILE_PX if bottom else 0)


def test_the_tiles_of_a_photograph_cover_every_pixel(wall: np.ndarray) -> None:
    tiles = cut(wall, TILE_PX, STRIDE_PX, 16)
    covered = np.zeros((PHOTO_H, PHOTO_W), bool)
    for y in tiles.ys:
        for x in tiles.xs:
            covered[y : y + TILE_PX, x : x + TILE_PX] = True
    assert covered.all()


PHOTO_WORKER = """
import re, sys, threading, time
from pathlib import Path
import numpy as np
import torch
from crackvae.images.decoded import decode_images
from crackvae.images.groups import with_groups
from crackvae.model.artifact import Model, model_digest
from crackvae.model.inference import score_tiles
from crackvae.model.network import Network
from crackvae.model.spec import ModelSpec
from crackvae.model.runtime import runtime_of
from crackvae.storage.listing import list_images

peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()

torch.set_num_threads(1)
spec = ModelSpec(input_px=256, channels=(16, 32, 64, 256), latent_dim=128, segmenter=(16, 32, 64, 96),
                 recipe="repair", tile_px=256, stride_px=192, head="evidence", beta=1e-6, seed=0, manifest="",
                 leaky=False)
network = Network(spec).eval()
model = Model(spec, network, model_digest(spec, network.state_dict()))
runtime = runtime_of(model, "onnx", 8)
for decoded in decode_images(with_groups(list_images(sys.argv[1]), "none"), spec):
    tiles = np.frombuffer(decoded["tiles"][0].as_py(), np.uint8).reshape(-1, 256, 256)
    assert len(tiles) == 651
    score_tiles(model, tiles[:64], 8, runtime=runtime)
print(peak / 1024)
"""


@pytest.mark.slow
def test_photographs_of_24_megapixels_take_a_worker_less_than_500_mb(tmp_path: Path, wall: np.ndarray) -> None:
    # Private memory: the pages of torch's and pyarrow's libraries, 160 MB more, are shared by all workers of a node.
    colour = Image.fromarray(np.stack([wall, wall, wall], axis=2))
    colour.save(tmp_path / "1.jpg", quality=95)
    colour.save(tmp_path / "2.png", compress_level=1)
    done = subprocess.run([sys.executable, "-c", PHOTO_WORKER, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 500


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


def test_the_anomaly_map_of_a_residual_head_is_the_difference_to_the_reconstruction(model_dir: Path) -> None:
    model = load_scorer(str(model_dir)).model
    model = replace(model, spec=replace(model.spec, head="mse"))
    side = model.spec.input_px
    pixels_HW = np.random.default_rng(1).integers(0, 255, (side, side), dtype=np.uint8)  # seen without resizing
    explanation = explain(model, pixels_HW)
    residual_HW = (pixels_HW.astype(float) - explanation.reconstruction_HW) / 255
    np.testing.assert_allclose(explanation.anomaly_HW, np.abs(residual_HW), atol=2 / 255)


def test_a_yardstick_is_the_median_evidence_of_like_texture() -> None:
    rng = np.random.default_rng(8)
    texture_N = rng.uniform(0.01, 0.2, 1_000)
    evidence_N = texture_N**0.5 * rng.lognormal(0, 0.3, 1_000)
    yardstick = fit_yardstick(evidence_N, texture_N)
    assert yardstick and len(yardstick.log_textures) == heads.MAX_KNOTS
    assert np.all(np.diff(yardstick.log_textures) > 0)
    expected = heads.YARDSTICK_SHARE * 0.5 * np.log(np.exp(yardstick.log_textures) - heads.TEXTURE_OFFSET)
    assert yardstick.log_evidences == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("n", [0, 1, heads.TILES_PER_KNOT - 1])
def test_few_tiles_set_no_yardstick(n: int) -> None:
    assert fit_yardstick(np.ones(n), np.ones(n)) is None


def test_a_yardstick_of_tiles_of_one_texture_has_one_knot() -> None:
    yardstick = fit_yardstick(np.full(500, 2.0), np.full(500, 0.1))
    assert yardstick == Yardstick(
        (pytest.approx(np.log(0.105)),), (pytest.approx(heads.YARDSTICK_SHARE * np.log(2.0001)),)
    )


def test_scores_are_relative_to_the_yardstick(scorer: Scorer) -> None:
    rng = np.random.default_rng(9)
    deviations = (2, 8, 30, 60)
    tiles = np.stack([np.clip(rng.normal(150, one, (32, 32)), 0, 255) for one in deviations]).astype(np.uint8)
    evidence_T, texture_T = score_tiles(scorer.model, tiles, 4, extra_heads=(heads.TEXTURE,)).T
    knots = np.log(texture_T[1:3] + heads.TEXTURE_OFFSET)
    spec = replace(scorer.model.spec, yardstick=Yardstick(tuple(knots.tolist()), (0.0, 1.0)))
    relative_T = score_tiles(replace(scorer.model, spec=spec), tiles, 4)[:, 0]
    # Constant beyond the knots.
    assert relative_T == pytest.approx((evidence_T + heads.EVIDENCE_OFFSET) / np.exp([0, 0, 1, 1]), rel=1e-4)
