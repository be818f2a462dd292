"""The folder for devices flags what `score` flags, without this package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import small_spec, write_model
from PIL import Image

from crackvae.config import ExportConfig, ScoreConfig
from crackvae.images.synthetic import draw_image
from crackvae.model.export import export
from crackvae.model.export.edge import lowest_flagged
from crackvae.model.inference import load_scorer
from crackvae.scoring.verb import score_images
from crackvae.storage.tables import read_scores


@pytest.mark.slow
def test_the_folder_scores_photographs_as_score_does(tmp_path: Path) -> None:
    model, edge, images = (tmp_path / name for name in ("model", "edge", "images"))
    write_model(model, small_spec())
    export(ExportConfig(model=str(model), out=str(edge), kind="edge"))
    assert sorted(path.name for path in edge.iterdir()) == ["card.json", "edge.py", "model.onnx"]
    assert len((edge / "edge.py").read_text().splitlines()) < 100
    images.mkdir()
    for number, (height, width) in enumerate([(64, 64), (200, 150), (64, 250), (33, 40), (256, 256), (100, 100)]):
        Image.fromarray(draw_image(0, number, number % 2 == 0, 256)[0][:height, :width, 0]).save(
            images / f"{number}.png"
        )
    sixteen_bits = draw_image(0, 1, True, 256)[0][:, :, 0].astype(np.uint16) * 257
    Image.fromarray(sixteen_bits).save(images / "sixteen.png")
    score_images(ScoreConfig(images=(str(images),), model=str(model), out=str(tmp_path / "scores"), quiet=True))
    columns = ["image", "score", "flagged", "worst_x", "worst_y", "rows", "cols"]
    expected = read_scores(str(tmp_path / "scores"), columns).sort_by("image").to_pylist()
    damaged, twice = images / "damaged.png", tmp_path / "0.png"
    damaged.write_bytes((images / "0.png").read_bytes()[:300])
    shutil.copy(images / "0.png", twice)
    names = [str(damaged), *(row["image"] for row in expected), str(twice)]
    run = subprocess.run(
        [sys.executable, str(edge / "edge.py"), *names, "--maps", str(tmp_path / "maps")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, *found, last = map(json.loads, run.stdout.splitlines())
    assert list(first) == ["image", "error"] and run.returncode == 2
    assert last["score"] == found[0]["score"]
    for one, row in zip(found, expected, strict=True):
        assert (one["image"], one["flagged"], one["tiles"]) == (row["image"], row["flagged"], row["rows"] * row["cols"])
        assert np.isclose(one["score"], row["score"], rtol=0.02, atol=1e-4)
    assert len(list((tmp_path / "maps").iterdir())) == len(expected) + 1, "0.png of two folders"


def test_the_lowest_flagged_score_is_where_the_flags_of_the_calibration_begin(model_dir: Path) -> None:
    calibration = load_scorer(str(model_dir)).calibration
    for n_tiles, lowest in enumerate(lowest_flagged(calibration, 12), start=1):
        if lowest is None:
            continue
        scores_B = np.array([np.nextafter(np.float32(lowest), np.float32(-1)), lowest], np.float32)
        flags_B = calibration.flags(scores_B, calibration.p_values(scores_B, np.full(2, n_tiles)))
        assert flags_B.tolist() == [False, True]
