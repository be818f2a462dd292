"""`crackvae info`: what a model, a scores table or a manifest is, in about ten lines."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from conftest import small_spec, write_model

import crackvae
from crackvae.cli import main
from crackvae.errors import StorageError
from crackvae.model import calibration
from crackvae.model.inference import load_scorer


def described(capsys: pytest.CaptureFixture[str], path: Path) -> tuple[list[str], dict[str, object]]:
    """The lines of the table, and the summary."""
    assert main(["info", str(path)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    return lines[3:-2], json.loads(lines[-1])


def test_a_model_is_described_with_its_calibration(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, summary = described(capsys, model_dir)
    assert 8 <= len(lines) <= 13
    assert (summary["kind"], summary["head"], summary["threshold"]) == ("model", "evidence", 0.02)
    assert summary["calibration_images"] == 99 and summary["trained"] == "unknown" and len(summary["digest"]) == 64


def test_a_model_whose_darkness_no_labelled_crack_chose_says_that_sound_tiles_did(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, summary = described(capsys, Path("builtin"))
    assert summary["darkness_weight"] == "1, chosen on sound tiles of val" and len(lines) <= 14
    assert "chosen" not in crackvae.info(path=model_dir).summary["darkness_weight"]  # it has no record of its training


def test_a_model_without_a_calibration_says_how_to_make_one(tmp_path: Path, model_dir: Path) -> None:
    for file in model_dir.iterdir():
        if file.name != calibration.FILE:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "Run crackvae calibrate --model" in crackvae.info(path=tmp_path).summary["threshold"]


def test_an_altered_model_is_an_error(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"stride_px": 48', '"stride_px": 40'))
    assert main(["info", str(tmp_path)]) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("in_process")
def test_a_scores_table_is_counted_by_status(
    drawn: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    scored = crackvae.score(
        images=[drawn / "crack", tmp_path],
        model=model_dir,
        out=tmp_path / "scores",
        max_unreadable="100%",
        no_report=True,
        quiet=True,
    )
    lines, summary = described(capsys, tmp_path / "scores")
    assert 8 <= len(lines) <= 13 and (summary["kind"], summary["images"]) == ("scores", 61)
    assert summary["status"] == {"scored": 60, "unreadable": 1} and summary["flagged"] == scored.flagged
    assert summary["models"] == {scored.model[:12]: 61} and summary["last_run"] == scored.run
    assert any("60 scored, 1 unreadable" in line for line in lines)
    other = write_model(tmp_path / "other", small_spec(seed=3), threshold=1e9)
    again = crackvae.score(images=drawn / "crack", model=other, out=tmp_path / "scores", no_report=True, quiet=True)
    _, summary = described(capsys, tmp_path / "scores")
    assert (summary["images"], summary["flagged"]) == (61, 0), "an image counts once, by its latest run"
    assert summary["models"] == {scored.model[:12]: 61, again.model[:12]: 60}
    (tmp_path / "scores" / "_changes").mkdir()
    shutil.copy(next((tmp_path / "scores").glob("*.parquet")), tmp_path / "scores" / "_changes")
    with pytest.raises(StorageError, match=r"_changes is a part of the scores in .*/scores: name that"):
        crackvae.info(path=tmp_path / "scores" / "_changes")
    with pytest.raises(StorageError, match=r"00000\.parquet is a part of the scores in .*/scores: name that"):
        crackvae.info(path=next((tmp_path / "scores").glob("*.parquet")))


@pytest.mark.parametrize("name", ["", "manifest.parquet"])
def test_a_manifest_or_its_folder_is_counted_by_split(
    name: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, summary = described(capsys, manifest.parent / name)
    assert 8 <= len(lines) <= 13 and summary["kind"] == "manifest" and summary["leaky"] is False
    assert sum(summary["split"].values()) == summary["images"]
    assert summary["split"]["external crack"] == 20 and summary["split"]["train non_crack"] > 0


def test_anything_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 2
    assert "holds no model, no scores table and no manifest" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("x")
    assert main(["info", str(tmp_path / "notes.txt")]) == 2 and main(["info", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 2 and captured.out == ""


@pytest.mark.parametrize(
    ("training", "trained_on"),
    [
        ({"verb": "train", "images": 90}, 90),
        ({"verb": "train", "images": 90, "from": "abc" * 9}, "90, after those of the model abcabcabcabc"),
        ({"verb": "adapt", "images": 90, "quick": True, "choice": None}, "those of the model"),
        ({"verb": "adapt", "images": 90, "quick": False, "choice": {"kept": "starting"}}, "those of the model"),
        ({"verb": "learn", "images": 90, "held_out": {"are_found_better": False}}, "those of the model"),
        (
            {"verb": "adapt", "images": 90, "trained_on_images": 50, "choice": {"kept": "fine-tuned"}, "from": "abc"},
            "50, after those of the model abc",
        ),
        (
            {"verb": "learn", "images": 90, "trained_on_images": 20, "held_out": {"are_found_better": True}},
            20,
        ),
    ],
)
def test_images_that_only_set_a_threshold_are_not_those_that_a_model_was_trained_on(
    model_dir: Path, tmp_path: Path, training: dict[str, object], trained_on: str | int
) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / "training.json").write_text(json.dumps(training | {"finished": "2026-12-01"}))
    said = crackvae.info(path=tmp_path / "model").summary
    assert str(said["trained_on_images"]).startswith(str(trained_on))
    assert said["trained"].startswith("before: only the threshold" if trained_on == "those of the model" else "2026")


@pytest.mark.usefixtures("in_process")
def test_a_model_with_a_leaky_calibration_is_called_leaky_by_every_verb(
    drawn: Path, manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    crackvae.partition(images=drawn, out=tmp_path / "random", external=(20, 20), group_by="none", quiet=True)
    assert not crackvae.info(path=model).summary["leaky"]
    made = crackvae.calibrate(model=model, manifest=tmp_path / "random" / "manifest.parquet", quiet=True)
    scored = crackvae.score(images=drawn / "crack", model=model, out=tmp_path / "scores", no_report=True, quiet=True)
    judged = crackvae.evaluate(model=model, manifest=manifest, out=tmp_path / "out", resamples=100, no_report=True)
    written = crackvae.export(model=model, out=tmp_path / "model.onnx")
    assert made.summary["leaky"] and scored.summary["leaky"] and judged.leaky and written.summary["leaky"]
    says = {one.key: one.value for one in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert says["leaky"] == "True"
    assert crackvae.info(path=model).summary["leaky"] and not load_scorer(str(model)).model.spec.leaky
