"""Judging and calibrating a model through the pipeline."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import small_spec, write_model

from crackvae import tables
from crackvae.config import CalibrateConfig, EvaluateConfig, PartitionConfig
from crackvae.errors import CalibrationError, ManifestError, OutputExists
from crackvae.evaluation import calibrate, evaluate
from crackvae.manifest import load_manifest, partition
from crackvae.scoring import load_scorer

pytestmark = pytest.mark.usefixtures("in_process")


def config(manifest: Path, model_dir: Path, out: Path, **changes: object) -> EvaluateConfig:
    values = {
        "manifest": str(manifest),
        "model": str(model_dir),
        "out": str(out),
        "resamples": 100,
        "quiet": True,
        "no_report": True,
    }
    return EvaluateConfig(**values | changes)


def test_an_evaluation_writes_what_it_prints(manifest: Path, model_dir: Path, tmp_path: Path) -> None:
    outcome = evaluate(config(manifest, model_dir, tmp_path / "out", no_report=False))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cracked_concrete_predictions.csv",
        "evaluation.parquet",
        "internal_cracked_concrete_predictions.csv",
        "internal_non_cracked_concrete_predictions.csv",
        "metrics.json",
        "non_cracked_concrete_predictions.csv",
        "report.html",
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == outcome.summary
    assert set(outcome.summary["sets"]) == {"internal", "external"} and outcome.summary["leaky"] is False
    matrix = outcome.tables["external set: confusion matrix"]
    assert list(matrix.index) == ["is non_crack", "is crack"] and matrix.sum(axis=1).tolist() == [20, 20]
    figures = outcome.tables["internal test: figures with 95 % intervals"]
    assert (figures["low"] <= figures["high"]).all()
    assert {"roc_auc", "recall_at_1%_false_alarms", "recall_at_0.1%_false_alarms", "precision", "recall", "f1"} <= set(
        figures.index
    )


def test_predictions_name_each_external_image_with_its_decision(
    manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    evaluate(config(manifest, model_dir, tmp_path / "out"))
    rows = pd.read_csv(tmp_path / "out" / "cracked_concrete_predictions.csv")
    assert list(rows.columns) == ["folder", "file_name", "prediction", "error", "p_value"]
    images = load_manifest(str(manifest)).images("test", "crack", "external")["image"].to_pylist()
    assert [f"{row.folder}/{row.file_name}" for row in rows.itertuples()] == images
    threshold = load_scorer(str(model_dir)).calibration.threshold
    assert (rows["prediction"] == np.where(rows["error"] > threshold, "crack", "non_crack")).all()


def test_without_an_external_set_the_predictions_are_those_of_the_split(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    partition(
        PartitionConfig(images=str(drawn), out=str(tmp_path), external=(0, 0), group_by="none", seed=3, quiet=True)
    )
    outcome = evaluate(config(tmp_path / "manifest.parquet", model_dir, tmp_path / "out", split="val"))
    assert len(pd.read_csv(tmp_path / "out" / "non_cracked_concrete_predictions.csv")) == 24
    assert len(pd.read_csv(tmp_path / "out" / "cracked_concrete_predictions.csv")) == 6
    assert outcome.summary["leaky"] is True and any("(leaky)" in title for title in outcome.tables)


def test_an_image_that_is_gone_is_named(manifest: Path, model_dir: Path, tmp_path: Path) -> None:
    table = load_manifest(str(manifest)).table
    names = [name if number % 50 else f"{name}.gone" for number, name in enumerate(table["image"].to_pylist())]
    tables.write_table(str(tmp_path / "m.parquet"), table.set_column(0, "image", [names]))
    with pytest.raises(ManifestError, match=r"cannot be scored, the first .*\.gone: No such file"):
        evaluate(config(tmp_path / "m.parquet", model_dir, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_evaluation_is_not_overwritten(manifest: Path, model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExists):
        evaluate(config(manifest, model_dir, tmp_path))


def test_calibrating_on_val_keeps_its_sound_scores_and_sets_the_percentile(manifest: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec())
    digest = load_scorer(str(model)).model.digest
    outcome = calibrate(CalibrateConfig(model=str(model), manifest=str(manifest), percentile=90, quiet=True))
    made = load_scorer(str(model)).calibration
    n = load_manifest(str(manifest)).images("val", "non_crack").num_rows
    assert outcome.summary["n"] == len(made.scores_N) == n and made.model == digest
    assert made.threshold == pytest.approx(np.percentile(made.scores_N, 90))


def test_calibrating_on_a_folder_drops_what_cannot_be_read_and_counts_it(drawn: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec())
    sound = tmp_path / "sound"
    sound.mkdir()
    for image in sorted((drawn / "non_crack").iterdir())[:40]:
        (sound / image.name).write_bytes(image.read_bytes())
    (sound / "broken.jpg").write_bytes(b"")
    outcome = calibrate(CalibrateConfig(model=str(model), images=str(sound), max_false_alarm=0.05, quiet=True))
    assert (outcome.summary["n"], outcome.summary["left_out"]) == (40, 1)
    assert "at most 0.05 false alarms" in load_scorer(str(model)).calibration.level


def test_a_promise_that_the_images_cannot_carry_leaves_the_calibration_as_it_was(
    manifest: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", small_spec())
    before = (model / "calibration.json").read_bytes()
    with pytest.raises(CalibrationError, match="needs 999 sound images"):
        calibrate(CalibrateConfig(model=str(model), manifest=str(manifest), max_false_alarm=0.001, quiet=True))
    assert (model / "calibration.json").read_bytes() == before


def test_the_table_of_an_evaluation_has_the_columns_of_scores_and_the_truth(
    manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    evaluate(config(manifest, model_dir, tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "evaluation.parquet")
    assert table.column_names == [*tables.SCORES_SCHEMA.names, "label", "set", "split"]
