"""Findings that score writes beside its rows, by the model that the package contains."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import crackvae
from crackvae.images.tiles import Grid
from crackvae.scoring import actors, run_table
from crackvae.scoring.findings import tiles_to_trace
from crackvae.storage.tables.findings import folder_of, read_findings

PHOTOGRAPH_PX = 640


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A sound and a cracked photograph of several tiles."""
    folder = tmp_path / "photographs"
    folder.mkdir()
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


@pytest.mark.usefixtures("in_process")
def test_without_findings_the_scores_are_the_same(photographs: Path, tmp_path: Path) -> None:
    for how in ("on", "off"):
        crackvae.score(images=str(photographs), out=str(tmp_path / how), findings=how, no_report=True, quiet=True)
    rows = [crackvae.read_scores(tmp_path / how).drop_columns(["run"]) for how in ("on", "off")]
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


def test_tiles_above_the_threshold_are_traced_and_a_crack_is_followed_into_their_neighbours() -> None:
    grid = Grid(xs=(0, 192, 384, 576), ys=(0,), tile_h=256, tile_w=256)
    assert tiles_to_trace(np.array([0.1, 0.6, 2.0, np.nan]), grid, 1.0).tolist() == [1, 2]
    assert tiles_to_trace(np.array([0.6, 0.1, 2.0, 0.6]), grid, 1.0).tolist() == [2, 3]
