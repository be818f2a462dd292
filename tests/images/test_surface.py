"""What shows no surface gets no score, and does not disturb the score of what lies beside it."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import small_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from crackvae.images import surface
from crackvae.images.decoded import decode_images, tiles_of
from crackvae.images.decoding import decode_picture
from crackvae.images.synthetic import draw_image
from crackvae.model.inference import load_scorer
from crackvae.scoring.rows import score_decoded
from crackvae.storage.listing import LISTING_SCHEMA

SOUND_HW = draw_image(0, 1, False, 227)[0][:, :, 0]
CRACK_HW, MASK_HW = draw_image(0, 1, True, 227)
CRACK_HW = CRACK_HW[:, :, 0]


def png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def jpeg(pixels: np.ndarray, quality: int = 85) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def row_of(data: bytes, **spec: int) -> dict[str, object]:
    listing = {"image": ["a"], "bytes": [len(data)], "modified": [0], "error": [""]}
    images = pa.table(listing).cast(LISTING_SCHEMA).append_column("group", pa.array([""]))
    (decoded,) = decode_images(images, small_spec(**{"tile_px": 227, "stride_px": 170, **spec}), lambda _: data)
    return decoded.to_pylist()[0]


def noisy(level: float, deviation: float, shape: tuple[int, int] = (227, 227)) -> np.ndarray:
    return np.random.default_rng(0).normal(level, deviation, shape).clip(0, 255).astype(np.uint8)


FRAMES = {
    "black": np.zeros((227, 227), np.uint8),
    "lens cap": noisy(4, 2),
    "white": np.full((227, 227), 255, np.uint8),
    "nearly white": noisy(253, 1),
    "grey card": np.full((227, 227), 128, np.uint8),
    "crack burnt out": np.clip(CRACK_HW.astype(int) + 200, 0, 255).astype(np.uint8),
    "photograph of a black sky": noisy(2, 1, (700, 900)),
    "transparent": np.dstack([SOUND_HW, np.zeros_like(SOUND_HW)]),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("encode", [png, jpeg])
def test_a_frame_that_shows_no_surface_has_a_status_and_a_reason_of_its_own(name: str, encode: object) -> None:
    if FRAMES[name].ndim == 3 and encode is jpeg:
        pytest.skip("JPEG has no transparency")
    row = row_of(encode(FRAMES[name]))
    assert row["status"] == "no_surface" and str(row["error"]).startswith("no surface: ")
    assert (row["rows"], row["cols"], row["tiles"]) == (0, 0, b"")
    assert (row["clipped"] > 0.5) == (name != "grey card") and 0 <= row["brightness"] <= 255


@pytest.mark.parametrize("change", [1.0, 0.55, 0.3, 1.1])
def test_a_dark_or_light_photograph_of_a_surface_is_scored(change: float) -> None:
    for pixels in (SOUND_HW, CRACK_HW):
        row = row_of(png((pixels * change).clip(0, 255).astype(np.uint8)))
        assert row["status"] == "scored" and row["blank"] == []


def test_a_smooth_surface_at_low_quality_is_scored() -> None:
    smooth = np.asarray(Image.fromarray(noisy(180, 6)).filter(ImageFilter.GaussianBlur(1)))
    assert row_of(jpeg(smooth, 40))["status"] == "scored"


def padded(kind: str, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """A sound image with a part of it missing, and where."""
    missing = np.zeros((227, 227), bool)
    y, x = np.mgrid[:227, :227]
    if kind == "letterbox":
        missing[:14] = missing[-14:] = True
    elif kind == "pillarbox":
        missing[:, :20] = True
    else:
        missing[x + y < 110] = True
    return np.where(missing, fill, SOUND_HW).astype(np.uint8), missing


@pytest.mark.parametrize("lower", [3, 12, 16, 250, 255])
@pytest.mark.parametrize("marked", [(), (0, 3), (112, 118)])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_image_of_two_bars_and_a_small_mark_shows_no_surface(lower: int, marked: tuple, transposed: bool) -> None:
    pixels = np.zeros((227, 227), np.uint8)
    pixels[113:] = lower
    if marked:
        pixels[slice(*marked), 50:53] = 120
    row = row_of(png(pixels.T if transposed else pixels))
    assert row["status"] == "no_surface" and row["tiles"] == b""


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("kind", ["letterbox", "pillarbox", "corner"])
@pytest.mark.parametrize("encode", [png, jpeg])
def test_bars_and_corners_are_found_and_filled_from_the_surface_beside_them(
    kind: str, fill: int, encode: object
) -> None:
    pixels, missing = padded(kind, fill)
    if kind == "corner" and encode is jpeg:
        pixels = np.asarray(Image.open(io.BytesIO(jpeg(pixels, 95))))
        pixels = np.where(missing, fill, pixels).astype(np.uint8)  # as tools write no-data over a photograph
    hidden = surface.hidden_parts(decode_picture(encode(pixels) if kind != "corner" else png(pixels)).pixels_HW, None)
    assert hidden is not None and hidden[missing].mean() > 0.97 and hidden[~missing].mean() < 0.08
    filled = surface.filled(pixels, hidden)
    assert abs(filled[missing].mean() - SOUND_HW.mean()) < 25
    assert np.percentile(filled, 1) >= np.percentile(SOUND_HW, 0.1) - 12
    assert np.array_equal(filled[~hidden], pixels[~hidden])


def test_a_transparent_corner_is_no_crack(model_dir: Path) -> None:
    pixels, missing = padded("corner", 0)
    data = png(np.dstack([pixels, np.where(missing, 0, 255).astype(np.uint8)]))
    row = row_of(data)
    assert row["status"] == "scored"
    tile = np.frombuffer(row["tiles"], np.uint8)
    assert tile.min() >= np.percentile(SOUND_HW, 0.1) - 12


def test_of_a_photograph_only_tiles_that_show_a_surface_are_scored(model_dir: Path) -> None:
    scorer = load_scorer(str(model_dir))
    pixels = np.tile(SOUND_HW, (3, 4))[:600, :800].copy()
    pixels[:, :400] = 0
    listing = {"image": ["a"], "bytes": [1], "modified": [0], "error": [""]}
    images = pa.table(listing).cast(LISTING_SCHEMA).append_column("group", pa.array([""]))
    spec = small_spec(tile_px=200, stride_px=200)
    (decoded,) = decode_images(images, spec, lambda _: png(pixels))
    row = score_decoded(decoded, scorer, "run", lambda tiles: 1 + np.arange(len(tiles), dtype=np.float32)[:, None])
    (found,) = row.to_pylist()
    scores = np.array(found["tile_scores"]).reshape(3, 4)
    assert np.isnan(scores[:, :2]).all() and np.isfinite(scores[:, 2:]).all()
    assert found["score"] == 12 and (found["worst_x"], found["worst_y"]) == (600, 400)
    assert found["p_value"] == scorer.calibration.p_values(np.array([12.0]), np.array([6]))[0]
    assert len(tiles_of(decoded, spec.input_px)) == 12


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("degrees", [3, 20, 45, 70, "circle"])
def test_the_thin_ends_of_missing_corners_are_missing_too(degrees: int | str, fill: int) -> None:
    """A photograph that was turned into a map's frame, or one of a lens that fills no rectangle."""
    y, x = np.mgrid[-1:1:227j, -1:1:227j]
    missing = x**2 + y**2 > 1
    if degrees != "circle":
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        missing = (np.abs(cosine * x + sine * y) > 1) | (np.abs(cosine * y - sine * x) > 1)
    pixels = np.where(missing, fill, SOUND_HW).astype(np.uint8)
    hidden = surface.hidden_parts(pixels, None)
    assert hidden is not None or missing.mean() < 0.05
    if hidden is not None:
        assert (missing & ~hidden).mean() < 0.002 and hidden[~missing].mean() < 0.15


def test_a_black_crack_that_starts_at_a_missing_corner_stays_visible() -> None:
    pixels, missing = padded("corner", 0)
    rows = np.arange(227)
    crack = (np.abs(rows[:, None] - rows[None]) < 2) & ~missing
    pixels = np.where(crack, 0, pixels)
    hidden = surface.hidden_parts(pixels, None)
    assert hidden is not None and hidden[missing].mean() > 0.97 and hidden[crack].mean() < 0.5


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(0, 226))
def test_a_crack_that_reaches_the_border_is_never_taken_for_a_missing_part(seed: int, width: int, at: int) -> None:
    pixels = np.random.default_rng(seed).normal(150, 10, (227, 227)).clip(0, 255).astype(np.uint8)
    pixels[:, at : at + width] = 0
    if at and at + width < 227:
        assert surface.hidden_parts(pixels, None) is None
    assert not surface.is_blank(pixels, None)
