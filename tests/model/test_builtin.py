"""The model that the package contains is found by its name, wherever a model is an input."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import HOUSE, read_rows
from safetensors.torch import load

import crackvae
from crackvae.cli import main
from crackvae.errors import ConfigError, ModelError
from crackvae.model import builtin
from crackvae.model.artifact import SAFETENSORS_FILE, WEIGHTS_FILE, load_model
from crackvae.model.backbone import pretrained
from crackvae.model.calibration import load_calibration
from crackvae.model.network import BACKBONE


@pytest.mark.usefixtures("in_process")
def test_images_are_scored_without_naming_a_model(builtin_model: Path, drawn: Path, tmp_path: Path) -> None:
    run = crackvae.score(images=drawn / "crack", out=tmp_path / "scores", quiet=True)
    digest = load_model(str(builtin_model)).digest
    assert run.summary["model_dir"] == "builtin" and run.summary["model"] == digest
    assert set(read_rows(tmp_path / "scores")["model"].to_pylist()) == {digest}
    page = Path(run.page).read_text()
    assert f"Model builtin, {digest[:12]}" in page and "anomaly" in page


def test_info_describes_the_built_in_model(builtin_model: Path) -> None:
    assert crackvae.info().summary["digest"] == load_model(str(builtin_model)).digest


@pytest.mark.usefixtures("in_process")
def test_a_calibration_of_the_built_in_model_is_a_copy(builtin_model: Path, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --out for a copy"):
        crackvae.calibrate(images=drawn / "non_crack", quiet=True)
    before = {path.name: path.read_bytes() for path in builtin_model.iterdir()}
    site = tmp_path / "site"
    done = crackvae.calibrate(images=drawn / "non_crack", out=site, quiet=True)
    assert {path.name: path.read_bytes() for path in builtin_model.iterdir()} == before
    digest = load_model("builtin").digest
    assert load_model(str(site)).digest == digest
    made = load_calibration(str(site), digest)
    assert made.threshold == pytest.approx(done.threshold)
    highest = done.tables["highest scores of sound images"]
    assert highest.score.tolist() == pytest.approx(made.scores_N[:-6:-1].tolist())
    assert all(Path(image).is_relative_to(drawn / "non_crack") for image in highest.index)


def test_an_altered_or_missing_built_in_model_is_refused_in_one_line(
    model_dir: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "builtin"
    shutil.copytree(model_dir, copy)
    monkeypatch.setattr(builtin, "FOLDER", str(copy))
    description = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(description | {"seed": 17}))
    assert main(["score", str(drawn / "crack"), "--out", str(tmp_path / "scores")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "crackvae score: builtin was altered since it was written: its digest does not match. "
        "Install crackvae again, or name a model directory with --model."
    )
    (copy / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match="this installation has no built-in model"):
        load_model("builtin")


def test_the_built_in_model_is_loaded_without_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.load", None)
    monkeypatch.setattr("pickle.loads", None)
    model = load_model("builtin")
    assert load_calibration("builtin", model.digest).threshold > 0
    assert not [path.name for path in Path(builtin.FOLDER).iterdir() if path.suffix in (".pth", ".pkl", ".pt")]


def test_its_backbone_is_the_one_in_the_package_and_its_weights_are_not_there_twice() -> None:
    network = load_model("builtin").network
    assert network.segmenter and network.segmenter.context
    untouched = pretrained()
    for name, weights in network.segmenter.context.backbone.state_dict().items():
        torch.testing.assert_close(weights, untouched[name], rtol=0, atol=0)
    assert not [
        name for name in load((Path(builtin.FOLDER) / SAFETENSORS_FILE).read_bytes()) if name.startswith(BACKBONE)
    ]


def test_its_record_names_no_folder_of_the_machine_that_trained_it() -> None:
    record = (Path(builtin.FOLDER) / "training.json").read_text()
    assert json.loads(record)["settings"]["manifest"] == "manifest.parquet"
    assert not re.findall(r'"/[^"]*"', record)


def test_its_card_and_the_readme_hold_the_figures_of_its_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HOUSE / "benchmarks")
    from builtin import model_card, readme_rows

    newest = max((HOUSE / "benchmarks" / "results").glob("builtin-*.json"))
    result, folder = json.loads(newest.read_text()), Path(builtin.FOLDER)
    training = json.loads((folder / "training.json").read_text())
    assert result["model"] == load_model("builtin").digest
    assert (folder / "MODEL_CARD.md").read_text() == model_card(result, newest.name, training)
    readme = (HOUSE / "README.md").read_text()
    assert "\n".join(readme_rows(result["test"])) in readme and newest.name in readme


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"\xff" * 8 + data[8:]])
def test_a_damaged_file_of_its_weights_is_refused_in_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(builtin.FOLDER, copy)
    monkeypatch.setattr(builtin, "FOLDER", str(copy))
    (copy / SAFETENSORS_FILE).write_bytes(damage((copy / SAFETENSORS_FILE).read_bytes()))
    with pytest.raises(ModelError, match=r"^builtin is damaged: .*\. Install crackvae again") as error:
        load_model("builtin")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", [lambda: crackvae.train(manifest="m.parquet", model="builtin")])
def test_a_new_model_cannot_have_its_name(call: object) -> None:
    with pytest.raises(ConfigError, match="is the name of the model that comes with crackvae"):
        call()  # type: ignore[operator]
