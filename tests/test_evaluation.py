"""Judging and calibrating a model through the pipeline."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import small_spec, write_model
from PIL import Image
from sklearn.metrics import roc_auc_score

from crackvae import evaluation
from crackvae.config import CalibrateConfig, EvaluateConfig, PartitionConfig
from crackvae.errors import CalibrationError, ManifestError, ModelError, OutputExists
from crackvae.evaluation import evaluate
from crackvae.images.manifest import load_manifest, partition
from crackvae.images.synthetic import write_images
from crackvae.model.inference import load_scorer
from crackvae.scoring.calibrate import calibrate
from crackvae.storage import tables

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


@pytest.mark.slow
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


def test_a_page_that_cannot_be_made_costs_an_evaluation_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise ModelError("/models/site was altered.")

    monkeypatch.setattr("crackvae.reports.evaluation_page.evaluation_page", failing)
    settings = config(tmp_path / "manifest.parquet", tmp_path / "model", tmp_path / "out", no_report=False)
    assert evaluation._page(pa.table({}), {"out": str(tmp_path / "out")}, settings) == {}
    assert "no page: /models/site was altered." in capsys.readouterr().err


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
    heads = [f"score_{name}" for name in ("mse", "one_line")]
    assert table.column_names == [*tables.SCORES_SCHEMA.names, "label", "set", "split", *heads]


def test_each_head_and_one_line_of_numpy_are_judged_on_the_same_images(
    manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    outcome = evaluate(config(manifest, model_dir, tmp_path / "out"))
    judged = outcome.summary["sets"]["internal"]
    assert list(judged["heads"]) == ["evidence", "mse", "one_line"]
    own = judged["heads"]["evidence"]
    assert own == {name: judged["figures"][name] for name in own}
    rows = pq.read_table(tmp_path / "out" / "evaluation.parquet").to_pandas()
    rows = rows[rows["set"] == "internal"]
    expected = roc_auc_score(rows["label"] == "crack", rows["score_one_line"])
    assert judged["heads"]["one_line"]["roc_auc"]["value"] == pytest.approx(expected)
    shown = outcome.tables["internal test: each head, and one line of numpy"]
    assert list(shown.columns) == list(judged["heads"])


def test_one_image_of_each_group_is_judged_and_calibrated_on(drawn: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec())
    partition(
        PartitionConfig(images=str(drawn), out=str(tmp_path), external=(0, 0), group_by=r"(\d+)\.jpg", quiet=True)
    )
    manifest = tmp_path / "manifest.parquet"
    images = load_manifest(str(manifest)).images("test").to_pandas()
    assert images["group"].duplicated().any(), "a sound and a cracked image share their number here"
    evaluate(config(manifest, model, tmp_path / "out", one_per_group=True))
    rows = pq.read_table(tmp_path / "out" / "evaluation.parquet").to_pandas()
    assert sorted(rows["group"]) == sorted(set(images["group"]))
    outcome = calibrate(CalibrateConfig(model=str(model), manifest=str(manifest), one_per_group=True, quiet=True))
    assert outcome.summary["n"] == outcome.summary["groups"] and "one per group" in outcome.summary["level"]


def test_the_promised_false_alarm_rate_stands_beside_the_realised_one(
    manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    judged = evaluate(config(manifest, model_dir, tmp_path / "out")).summary["sets"]["external"]
    promise = judged["promised_false_alarm_rate"]
    assert promise["low"] <= promise["expected"] <= promise["high"]
    assert promise["expected"] == load_scorer(str(model_dir)).calibration.promise(20)["expected"]
    assert 0 <= judged["figures"]["false_alarm_rate"]["value"] <= 1


def test_a_replaced_picture_is_named_and_nothing_is_judged_or_calibrated_on_it(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(drawn, images)
    partition(PartitionConfig(images=str(images), out=str(tmp_path), external=(20, 20), quiet=True))
    manifest = tmp_path / "manifest.parquet"
    loaded = load_manifest(str(manifest))
    other = (drawn / "crack").iterdir().__next__().read_bytes()
    judged, calibrated = (loaded.images(split, "non_crack")["image"][0].as_py() for split in ("test", "val"))
    for image in (judged, calibrated):
        Path(image).write_bytes(other)
    before = (model_dir / "calibration.json").read_bytes()
    with pytest.raises(ManifestError, match=f"1 of .* cannot be scored, the first {judged}: it was replaced"):
        evaluate(config(manifest, model_dir, tmp_path / "out"))
    with pytest.raises(ManifestError, match=f"the first {calibrated}: it was replaced"):
        calibrate(CalibrateConfig(model=str(model_dir), manifest=str(manifest), quiet=True))
    assert not (tmp_path / "out").exists() and (model_dir / "calibration.json").read_bytes() == before


def test_anomaly_maps_are_judged_where_there_are_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images", 60, 20, side_px=64, masks=True, workers=1)
    partition(PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path), external=(0, 0), quiet=True))
    model = write_model(tmp_path / "model", small_spec(head="mse"), paints=0.8)
    chosen = config(tmp_path / "manifest.parquet", model, tmp_path / "out", masks=str(tmp_path / "images-masks"))
    pixels = evaluate(chosen).summary["sets"]["internal"]["pixels"]
    assert pixels["pixel_roc_auc"] > 0.8 and pixels["aupro"] > 0.5, "a drawn crack is darker than its surface"
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "another.png").write_bytes((tmp_path / "images-masks" / "00001.png").read_bytes())
    with pytest.raises(ManifestError, match="holds no mask named like a cracked image"):
        evaluate(replace(chosen, masks=str(tmp_path / "others"), out=str(tmp_path / "other")))
    for mask in (tmp_path / "images-masks").iterdir():
        Image.open(mask).resize((32, 32)).point(lambda level: 255 * (level > 0)).save(tmp_path / "others" / mask.name)
    monkeypatch.setattr(evaluation, "score_all", None)  # before the work
    with pytest.raises(ManifestError, match="has another size than the image"):
        evaluate(replace(chosen, masks=str(tmp_path / "others"), out=str(tmp_path / "other")))


def test_photographs_are_counted_by_their_flags_not_by_their_scores(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 60, 60, side_px=160, workers=1)
    partition(PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path), external=(0, 0), quiet=True))
    model = write_model(tmp_path / "model", small_spec(head="mse"), paints=0.7)
    judged = evaluate(config(tmp_path / "manifest.parquet", model, tmp_path / "out")).summary["sets"]["internal"]
    rows = pq.read_table(tmp_path / "out" / "evaluation.parquet").to_pandas()
    calibration, is_crack = load_scorer(str(model)).calibration, rows["label"] == "crack"
    assert set(rows["rows"] * rows["cols"]) == {9}
    assert ((rows["score"] > calibration.threshold) & ~rows["flagged"]).any(), "above the threshold of one tile"
    figures = {name: one["value"] for name, one in judged["figures"].items()}
    assert figures["recall"] == pytest.approx(rows["flagged"][is_crack].mean())
    assert figures["false_alarm_rate"] == pytest.approx(rows["flagged"][~is_crack].mean())
    assert judged["confusion"]["is crack"]["flagged"] == rows["flagged"][is_crack].sum()
    n_sound, n_groups = int((~is_crack).sum()), rows["group"][~is_crack].nunique()
    assert judged["promised_false_alarm_rate"] == calibration.promise(n_sound, 9, n_groups)


@pytest.mark.usefixtures("in_process")
def test_a_promise_counts_the_tiles_that_show_a_surface(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 40, 40, side_px=160, workers=1)
    for path in (tmp_path / "images").rglob("*.*"):
        pixels = np.asarray(Image.open(path).convert("L")).copy()
        pixels[:, 104:] = 0
        Image.fromarray(pixels).save(path)
    partition(PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path), external=(0, 0), quiet=True))
    model = write_model(tmp_path / "model", small_spec(head="mse"), paints=0.7)
    judged = evaluate(config(tmp_path / "manifest.parquet", model, tmp_path / "out")).summary["sets"]["internal"]
    rows = pq.read_table(tmp_path / "out" / "evaluation.parquet").to_pandas()
    sound = rows[rows["label"] == "non_crack"]
    n_tiles = set(np.isfinite(np.stack(sound["tile_scores"])).sum(axis=1))
    assert set(sound["rows"] * sound["cols"]) == {9} and n_tiles == {6}
    calibration, groups = load_scorer(str(model)).calibration, sound["group"].nunique()
    assert judged["promised_false_alarm_rate"] == calibration.promise(len(sound), int(*n_tiles), groups)


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_a_manifest_that_a_model_was_not_trained_with_is_named_in_one_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    said = []
    for trained_with in (load_manifest(str(manifest)).digest, "another"):
        model = write_model(tmp_path / trained_with[:9], small_spec(manifest=trained_with))
        if verb == "evaluate":
            evaluate(config(manifest, model, tmp_path / f"out-{trained_with[:9]}"))
        else:
            calibrate(CalibrateConfig(model=str(model), manifest=str(manifest), quiet=True))
        said.append(capsys.readouterr().err)
    assert said[0] == "" and said[1].count("\n") == 1
    assert "another was not trained with this manifest: images that were trained on may be among those" in said[1]


def regrouped(manifest: Path, folder: Path, groups: list[str]) -> Path:
    """The manifest with other groups."""
    table = load_manifest(str(manifest)).table
    column = table.column_names.index("group")
    tables.write_table(str(folder / "m.parquet"), table.set_column(column, "group", [groups]))
    return folder / "m.parquet"


@pytest.mark.parametrize("image_set", ["internal test", "external set"])
def test_a_label_that_one_image_of_each_group_leaves_out_is_named(
    manifest: Path, model_dir: Path, tmp_path: Path, image_set: str
) -> None:
    rows = load_manifest(str(manifest)).table.to_pylist()
    is_one = [f"{row['set']} {'set' if row['set'] == 'external' else row['split']}" == image_set for row in rows]
    groups = ["one wall" if one else row["group"] for one, row in zip(is_one, rows, strict=True)]
    chosen = config(regrouped(manifest, tmp_path, groups), model_dir, tmp_path / "out", one_per_group=True)
    with pytest.raises(ManifestError, match=f"{image_set} has no .* image left with --one-per-group.*another --seed"):
        evaluate(chosen)
    evaluate(replace(chosen, one_per_group=False))


def masked(folder: Path) -> tuple[Path, Path, dict[str, list[str]]]:
    """A manifest with an external set, the folder of its masks, and the names of the masks of each set."""
    write_images(folder / "images", 60, 30, side_px=64, masks=True, workers=1)
    partition(PartitionConfig(images=str(folder / "images"), out=str(folder), external=(10, 10), quiet=True))
    loaded = load_manifest(str(folder / "manifest.parquet"))
    cracks = {name: loaded.images("test", "crack", name)["image"].to_pylist() for name in ("internal", "external")}
    names = {name: [f"{Path(image).stem}.png" for image in images] for name, images in cracks.items()}
    return folder / "manifest.parquet", folder / "images-masks", names


def test_a_set_without_masks_has_no_figures_of_anomaly_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, folder, names = masked(tmp_path)
    for mask in folder.iterdir():
        if mask.name not in names["external"]:
            mask.unlink()
    listed = []
    listing = evaluation.list_images
    monkeypatch.setattr(evaluation, "list_images", lambda path: listed.append(path) or listing(path))
    model = write_model(tmp_path / "model", small_spec(head="mse"), paints=0.8)
    judged = evaluate(config(manifest, model, tmp_path / "out", masks=str(folder))).summary["sets"]
    assert "pixels" not in judged["internal"] and judged["external"]["pixels"]["pixel_roc_auc"] > 0.8
    assert listed == [str(folder)]


def test_the_masks_that_each_set_uses_are_checked_before_the_work(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder, names = masked(tmp_path)
    monkeypatch.setattr(evaluation, "MAX_MAPS", 1)
    monkeypatch.setattr(evaluation, "score_all", None)
    first = folder / names["external"][0]
    Image.open(first).resize((32, 32)).point(lambda level: 255 * (level > 0)).save(first)
    with pytest.raises(ManifestError, match="has another size than the image"):
        evaluate(config(manifest, model_dir, tmp_path / "out", masks=str(folder)))


@pytest.mark.parametrize(
    ("image", "folder", "name"),
    [
        ("/data/night/1.jpg", "/data/night", "1.jpg"),
        ("/data/night.zip!/1.jpg", "/data/night.zip!", "1.jpg"),
        ("s3://bucket/night//a/1.jpg", "s3://bucket/night//a", "1.jpg"),
        ("s3://bucket/1.jpg?region=eu-central-1", "s3://bucket?region=eu-central-1", "1.jpg"),
    ],
)
def test_the_folder_of_a_prediction_is_that_of_the_image(image: str, folder: str, name: str) -> None:
    rows = pa.table({"image": [image], "flagged": [True], "score": [1.0], "p_value": [0.1]})
    (row,) = evaluation._predictions(rows).to_pylist()
    assert (row["folder"], row["file_name"], row["prediction"]) == (folder, name, "crack")


def test_a_manifest_of_sound_images_alone_cannot_be_evaluated(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "non_crack").symlink_to(drawn / "non_crack")
    partition(PartitionConfig(images=str(tmp_path / "images"), out=str(tmp_path), quiet=True))
    manifest, out = str(tmp_path / "manifest.parquet"), str(tmp_path / "evaluation")
    with pytest.raises(ManifestError, match="internal test has no crack image, and an evaluation needs images of both"):
        evaluate(EvaluateConfig(manifest=manifest, model=str(model_dir), out=out, quiet=True))
