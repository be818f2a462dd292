"""Findings that score writes beside its rows, by the model that the package contains."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
from conftest import small_spec
from PIL import Image

import crackvae
from crackvae.images.decoded import decode_images
from crackvae.images.decoding import windows
from crackvae.images.tiles import Grid
from crackvae.model.calibration import Calibration
from crackvae.model.inference import Scorer
from crackvae.scoring import actors, run_table
from crackvae.scoring.findings import Tracing, tiles_to_trace, with_findings
from crackvae.scoring.rows import score_decoded
from crackvae.storage.listing import list_paths
from crackvae.storage.names.excerpts import excerpt_of
from crackvae.storage.tables.findings import folder_of, read_findings

PHOTOGRAPH_PX = 640

SPEC = small_spec(tile_px=256, stride_px=192, input_px=256)


@pytest.fixture
def photographs(two_photographs: Path, tmp_path: Path) -> Path:
    """A copy of both for one test."""
    return Path(shutil.copytree(two_photographs, tmp_path / "photographs"))


@pytest.fixture(scope="module")
def two_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound and a cracked photograph of several tiles."""
    folder = tmp_path_factory.mktemp("photographs")
    surface = crackvae.synthetic.draw_concrete(np.random.default_rng(1), PHOTOGRAPH_PX, PHOTOGRAPH_PX)
    cracked, _ = crackvae.synthetic.draw_crack(np.random.default_rng(3), surface)
    Image.fromarray(surface).save(folder / "sound.png")
    Image.fromarray(cracked).save(folder / "cracked.png")
    return folder


@pytest.mark.usefixtures("in_process")
def test_a_flagged_photograph_has_findings_and_a_sound_one_none(photographs: Path, tmp_path: Path) -> None:
    scored = crackvae.score(images=str(photographs), out=str(tmp_path / "out"), no_report=True, quiet=True)
    found = crackvae.read_findings(tmp_path / "out").to_pylist()
    assert scored.findings == len(found) > 0
    assert {Path(one["image"]).name for one in found} == {"cracked.png"}
    longest = found[0]
    assert longest["kind"] == "crack" and longest["length_px"] > PHOTOGRAPH_PX / 2
    assert longest["run"] == scored.run and longest["model"] == scored.model
    assert 0 <= longest["left_px"] < longest["right_px"] <= PHOTOGRAPH_PX
    assert np.isnan(longest["length_mm"]) and longest["mm_source"] == ""
    assert len({one["finding"] for one in found}) == len(found)
    printed = scored.tables["most suspicious"].set_index("image")
    assert printed["crack_length_px"].iloc[0] == max(one["length_px"] for one in found if one["kind"] != "joint")
    assert printed["crack_width_px"].iloc[0] == longest["width_max_px"] and printed["crack_length_px"].isna().iloc[1]


@pytest.mark.usefixtures("in_process")
def test_a_distance_and_the_focal_length_give_millimetres_time_and_place(photographs: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2026:05:04 08:30:00", 0x9011: "+02:00", 0xA405: 24}
    exif[0x8825] = {1: "N", 2: (47.0, 22.5, 0.0), 3: "E", 4: (8.0, 30.0, 0.0)}
    place = photographs / "cracked.png"
    Image.open(place).save(place, exif=exif.tobytes())
    settings = {"no_report": True, "quiet": True, "width_classes": "1,5,25"}
    crackvae.score(images=str(place), out=str(tmp_path / "out"), distance=2, **settings)
    longest = crackvae.read_findings(tmp_path / "out").to_pylist()[0]
    mm_per_px = 2000 / (24 / np.hypot(36, 24) * np.hypot(PHOTOGRAPH_PX, PHOTOGRAPH_PX))
    assert longest["mm_per_px"] == pytest.approx(mm_per_px)
    assert longest["length_mm"] == pytest.approx(mm_per_px * longest["length_px"])
    assert longest["mm_source"] == "focal length and a distance of 2 m"
    assert longest["width_max_mm"] == pytest.approx(mm_per_px * longest["width_max_px"])
    assert longest["width_class"] == "1 to 5 mm" and 1 < longest["width_max_mm"] <= 5
    assert (longest["lat"], longest["lon"], longest["taken"].hour) == (47.375, 8.5, 6)
    (tmp_path / "t.csv").write_text("image,mm_per_px\ncracked.png,0.25\n")
    crackvae.score(images=str(place), out=str(tmp_path / "named"), mm_table=str(tmp_path / "t.csv"), **settings)
    assert crackvae.read_findings(tmp_path / "named").to_pylist()[0]["mm_per_px"] == 0.25


@pytest.mark.usefixtures("in_process")
def test_without_findings_the_scores_are_the_same(photographs: Path, tmp_path: Path) -> None:
    for how in ("on", "off"):
        crackvae.score(images=str(photographs), out=str(tmp_path / how), findings=how, no_report=True, quiet=True)
    rows = [crackvae.read_scores(tmp_path / how).drop_columns(["run", "untraced"]) for how in ("on", "off")]
    pd.testing.assert_frame_equal(rows[0].to_pandas(), rows[1].to_pandas(), check_exact=True)
    assert read_findings(str(tmp_path / "off")).num_rows == 0 and not Path(folder_of(str(tmp_path / "off"))).exists()


@pytest.mark.usefixtures("in_process")
def test_a_run_killed_between_findings_and_rows_leaves_none_that_count(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = str(tmp_path / "out"), run_table.tables.write_part

    def killed(folder: str, *arguments: object) -> None:
        if folder == out:
            raise KeyboardInterrupt
        real(folder, *arguments)

    settings = {"images": str(photographs), "no_report": True, "quiet": True}
    monkeypatch.setattr(run_table.tables, "write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        crackvae.score(out=out, **settings)
    monkeypatch.setattr(run_table.tables, "write_part", real)
    assert list(Path(folder_of(out)).iterdir())
    crackvae.score(out=out, **settings)
    crackvae.score(out=str(tmp_path / "other"), **settings)
    again, undisturbed = (read_findings(str(tmp_path / name)).drop_columns(["run"]) for name in ("out", "other"))
    assert again.num_rows > 0
    pd.testing.assert_frame_equal(again.to_pandas(), undisturbed.to_pandas(), check_exact=True)


@pytest.mark.usefixtures("in_process")
def test_findings_do_not_depend_on_the_images_of_a_block(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for block_images in (1, 128):
        monkeypatch.setattr(actors, "BLOCK_IMAGES", block_images)
        out = str(tmp_path / str(block_images))
        crackvae.score(images=str(photographs), out=out, no_report=True, quiet=True)
        found.append(read_findings(out).drop_columns(["run"]))
    pd.testing.assert_frame_equal(found[0].to_pandas(), found[1].to_pandas(), check_exact=True)


CALIBRATION = Calibration(np.linspace(0, 1, 999, dtype=np.float32), 999, "", 0.95, "d", False)


def darkest(tiles_TPP: np.ndarray) -> np.ndarray:
    """A stand-in for the model's scores: a dark pixel is a crack."""
    return (200 - tiles_TPP.min(axis=(1, 2)))[:, None] / np.float32(20)


def dark(tiles: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """A stand-in for the model's maps."""
    return ((tile_PP < 130).astype(np.float32) for tile_PP in tiles)


def decoded_joint(tmp_path: Path, *, with_crack: bool) -> pa.Table:
    """A decoded photograph of 3 x 3 tiles with a joint across it and perhaps a crack beside it."""
    pixels = np.full((640, 640), 200, np.uint8)
    pixels[100:106] = 60
    if with_crack:
        x = np.arange(100, 540)
        for dy in range(5):
            pixels[(450 + 14 * np.sin(x / 9)).astype(int) + dy, x] = 60
    Image.fromarray(pixels).save(tmp_path / "joint.png")
    listing = list_paths((str(tmp_path / "joint.png"),)).images
    (decoded,) = decode_images(listing.append_column("group", pa.array([""])), SPEC)
    return decoded


@pytest.mark.parametrize("with_crack", [False, True])
def test_an_image_is_not_flagged_for_a_joint_alone_where_joints_are_ignored(tmp_path: Path, with_crack: bool) -> None:
    decoded = decoded_joint(tmp_path, with_crack=with_crack)
    scorer = Scorer(SimpleNamespace(spec=SPEC, digest="d"), CALIBRATION)
    rows = score_decoded(decoded, scorer, "run", darkest)
    assert rows["flagged"].to_pylist() == [True]
    apart, ignored = (
        with_findings(rows, decoded, CALIBRATION, SPEC, dark, Tracing(ignore_joints=how)).to_pylist()[0]
        for how in (False, True)
    )
    assert {one["kind"] for one in apart["findings"]} == {"joint", *(["crack"] if with_crack else [])}
    assert apart["flagged"] and ignored["flagged"] == with_crack
    assert ignored["score"] == np.nanmax(ignored["tile_scores"])
    assert ignored["flagged"] == (ignored["p_value"] <= CALIBRATION.rate)
    for row in (apart, ignored):
        assert {one["p_value"] for one in row["findings"]} == {row["p_value"]}
    screened = with_findings(rows, decoded, CALIBRATION, SPEC, dark, Tracing(ignore_joints=True), apart["score"] - 0.01)
    assert screened["precision"].to_pylist() == ["float32" if with_crack else "bfloat16"]


def test_images_of_one_table_have_the_findings_that_each_has_alone(tmp_path: Path) -> None:
    images = [decoded_joint(tmp_path, with_crack=with_crack) for with_crack in (True, False)]
    scorer = Scorer(SimpleNamespace(spec=SPEC, digest="d"), CALIBRATION)

    def found(decoded: pa.Table) -> list[list[dict[str, Any]]]:
        rows = score_decoded(decoded, scorer, "run", darkest)
        return with_findings(rows, decoded, CALIBRATION, SPEC, dark, Tracing())["findings"].to_pylist()

    alone = [found(decoded)[0] for decoded in images]
    assert [len(findings) for findings in alone] == [2, 1]
    assert repr(found(pa.concat_tables(images))) == repr(alone)  # not a number is never equal to itself


@pytest.mark.usefixtures("in_process")
def test_a_crack_ends_where_the_photograph_shows_no_surface(photographs: Path, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(photographs / "cracked.png")).copy()
    y, x = np.mgrid[:PHOTOGRAPH_PX, :PHOTOGRAPH_PX]
    is_hidden = x + 0.4 * y > 520  # as in a turned orthophoto
    pixels[is_hidden] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.png")
    crackvae.score(images=str(tmp_path / "turned.png"), out=str(tmp_path / "out"), no_report=True, quiet=True)
    found = crackvae.read_findings(tmp_path / "out").to_pylist()
    assert len(found) == 1
    points = np.stack([found[0]["x_px"], found[0]["y_px"]], axis=1)
    points = points[~np.isnan(points[:, 0])]
    beyond_px = (points @ [1, 0.4] - 520) / np.hypot(1, 0.4)
    assert -20 < beyond_px.max() < 8


@pytest.fixture
def across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], float]:
    """Settings that score a TIFF by windows with a crack from x=140 to x=940, and the length of the crack [px]."""
    monkeypatch.setattr(windows, "MIN_BYTES", 1_000)
    monkeypatch.setattr(windows, "WINDOW_PX", 600)
    monkeypatch.setattr(windows, "OVERLAP_PX", 128)
    surface = crackvae.synthetic.draw_concrete(np.random.default_rng(1), 1000, 1072)
    x = np.arange(140.0, 940.0, 0.5)  # windows begin at 0 and at 472
    y = 300 + 25 * np.sin(x / 60) + 5 * np.sin(x / 11)
    for dy in range(5):
        surface[y.astype(int) + dy, x.astype(int)] = 40
    tifffile.imwrite(tmp_path / "ortho.tif", surface, tile=(256, 256))
    settings = {"images": str(tmp_path / "ortho.tif"), "max_megapixels": 1, "no_report": True, "quiet": True}
    return settings, float(np.hypot(np.diff(x), np.diff(y)).sum())


@pytest.mark.usefixtures("in_process")
def test_a_crack_across_windows_is_one_finding_also_when_a_run_was_interrupted_between_them(
    across_windows: tuple[dict[str, Any], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, length_px = across_windows
    whole_run = windows.windows_of
    with monkeypatch.context() as interrupted:
        interrupted.setattr(windows, "windows_of", lambda *args: list(whole_run(*args))[:1])
        crackvae.score(out=str(tmp_path / "out"), **settings)
    assert crackvae.read_findings(tmp_path / "out")["length_px"][0].as_py() < 600
    crackvae.score(out=str(tmp_path / "out"), **settings)
    at_once = crackvae.score(out=str(tmp_path / "other"), **settings)
    resumed, other = (crackvae.read_findings(tmp_path / name).to_pylist() for name in ("out", "other"))
    assert at_once.findings == len(other) == len(resumed) == 1 and at_once.flagged >= 2
    assert other[0]["length_px"] == pytest.approx(length_px, rel=0.04)
    left_px = excerpt_of(other[0]["image"]).x
    assert (other[0]["left_px"] + left_px, other[0]["right_px"] + left_px) == pytest.approx((140, 940), abs=10)
    assert [resumed[0][name] for name in ("finding", "x_px")] == [other[0][name] for name in ("finding", "x_px")]


@pytest.mark.ray
def test_a_crack_across_windows_that_two_workers_read_is_one_finding(
    across_windows: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    settings, length_px = across_windows
    scored = crackvae.score(out=str(tmp_path / "out"), workers=2, **settings)
    (found,) = crackvae.read_findings(tmp_path / "out").to_pylist()
    assert scored.findings == 1 and found["length_px"] == pytest.approx(length_px, rel=0.04)


def test_tiles_above_the_threshold_are_traced_and_a_crack_is_followed_into_their_neighbours() -> None:
    grid = Grid(xs=(0, 192, 384, 576), ys=(0,), tile_h=256, tile_w=256)
    assert tiles_to_trace(np.array([0.1, 0.6, 2.0, np.nan]), grid, 1.0).tolist() == [1, 2]
    assert tiles_to_trace(np.array([0.6, 0.1, 2.0, 0.6]), grid, 1.0).tolist() == [2, 3]
