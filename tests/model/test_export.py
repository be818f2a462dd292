"""The ONNX file gives the scores of its model to a program that knows nothing of this code."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import small_spec, write_model

from crackvae.cli import main
from crackvae.config import ExportConfig
from crackvae.images.decoding import decode
from crackvae.images.tiles import resized
from crackvae.model.export import export
from crackvae.model.inference import explain, load_scorer, score_tiles
from crackvae.model.spec import Yardstick


def session_of(model: Path, out: Path) -> onnxruntime.InferenceSession:
    export(ExportConfig(model=str(model), out=str(out)))
    return onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "changes",
    [{"head": "mse"}, {}, {"darkness_weight": 3.0}, {"yardstick": Yardstick((-4.0, -3.0, -1.0), (-1.0, 0.5, 1.0))}],
    ids=str,
)
def test_the_file_gives_the_scores_of_every_head_for_any_number_of_tiles(
    changes: dict[str, object], drawn: Path, tmp_path: Path
) -> None:
    model_dir = write_model(tmp_path / "model", small_spec(**changes))
    session = session_of(model_dir, tmp_path / "model.onnx")
    images = [*sorted((drawn / "crack").iterdir())[:3], *sorted((drawn / "non_crack").iterdir())[:4]]
    tiles = resized([decode(image.read_bytes()) for image in images], 32)
    flat = np.stack([np.full((32, 32), level, np.uint8) for level in (0, 1, 254, 255)])
    for some in (tiles, tiles[:1], flat):
        expected = score_tiles(load_scorer(str(model_dir)).model, some, batch=len(some))[:, 0]
        assert session.run(["score"], {"tiles": some})[0] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_file_gives_map_and_reconstruction_as_the_page_shows_them(model_dir: Path, tmp_path: Path) -> None:
    session = session_of(model_dir, tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    anomaly, reconstruction = session.run(["anomaly_map", "reconstruction"], {"tiles": pixels[None]})
    shown = explain(load_scorer(str(model_dir)).model, pixels)
    assert np.allclose(anomaly[0, 0], shown.anomaly_HW, atol=1e-5)
    assert np.abs(reconstruction[0, 0] * 255 - shown.reconstruction_HW).max() <= 0.51


def test_the_file_says_what_its_user_has_to_know(model_dir: Path, tmp_path: Path) -> None:
    export(ExportConfig(model=str(model_dir), out=str(tmp_path / "model.onnx")))
    scorer = load_scorer(str(model_dir))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    says = {entry.key: entry.value for entry in model.metadata_props}
    assert says["digest"] == scorer.model.digest and float(says["threshold"]) == scorer.calibration.threshold
    assert (says["head"], says["tile_px"], says["stride_px"], says["leaky"]) == ("evidence", "64", "48", "False")


def test_the_verb_prints_parity_and_one_json_line(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert main(["export", "--model", str(model_dir), "--out", str(out)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    assert any(line.startswith("ONNX file") for line in table)
    assert summary["bytes"] == out.stat().st_size and summary["flags_that_differ"] == 0
    assert summary["largest_difference"] < 1e-4 * summary["threshold"]
