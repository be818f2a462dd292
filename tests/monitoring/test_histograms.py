"""Histograms of a night: counted by group, written atomically, refused when altered."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import small_spec, write_model

from crackvae.config import CalibrateConfig, ScoreConfig
from crackvae.errors import ModelError, StorageError
from crackvae.model.calibration import Calibration
from crackvae.monitoring import histograms
from crackvae.monitoring.histograms import count, histograms_file, load_histograms, load_reference, reference_of
from crackvae.scoring.calibrate import calibrate
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.names.run_files import histograms_name


def rows(groups: list[str], scores: list[float]) -> pa.Table:
    n = len(groups)
    known = [not np.isnan(value) for value in scores]
    return pa.table(
        {
            "group": groups,
            "status": ["scored" if one else "unreadable" for one in known],
            "score": pa.array(scores, pa.float32()),
            "flagged": pa.array([one and value > 0.5 for one, value in zip(known, scores, strict=True)]),
            **{name: pa.array([100.0 if one else np.nan for one in known], pa.float32()) for name in histograms.CAMERA},
            "latent_norm": pa.array([1.0] * n, pa.float32()),
        }
    )


EDGES = {"score": np.array([0.25, 0.5])}


def test_counts_are_by_group_and_an_image_without_a_score_is_in_none() -> None:
    night = count(rows(["a", "b", "a", "b"], [0.1, 0.5, 0.9, float("nan")]), EDGES, "m")
    assert night.whole.statuses == {"scored": 3, "unreadable": 1} and night.whole.images == 4
    assert night.whole.counts["score"].tolist() == [1, 1, 1]
    assert night.groups["a"].counts["score"].tolist() == [1, 0, 1] and night.groups["a"].flagged == 1
    assert night.groups["b"].counts["score"].tolist() == [0, 1, 0] and night.groups["b"].scored == 1


def test_a_value_on_the_threshold_counts_below_it_as_it_is_not_flagged() -> None:
    scores = np.linspace(0, 1, 100, dtype=np.float32)
    made = Calibration(scores, 1, "", float(scores[90]), "m", leaky=False)
    reference = reference_of(rows(["g"] * 100, scores.tolist()), made)
    above = reference.whole.counts["score"][np.searchsorted(reference.edges["score"], float(scores[90])) + 1 :]
    assert above.sum() == reference.whole.flagged == 9


def test_groups_beyond_the_limit_count_only_in_the_whole_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "MAX_GROUPS", 2)
    night = count(rows(["a", "b", "c"], [0.1] * 3), EDGES, "m") + count(rows(["d"], [0.1]), EDGES, "m")
    assert set(night.groups) == {"a", "b"} and night.whole.images == 4


def test_a_file_round_trips_and_an_altered_or_damaged_one_is_refused(tmp_path: Path) -> None:
    night = count(rows(["a", "b"], [0.1, 0.9]), EDGES, "m")
    place = tmp_path / "night.json"
    place.write_bytes(histograms_file(night, run="r"))
    assert histograms_file(load_histograms(str(place)), run="r") == place.read_bytes()
    content = json.loads(place.read_text())
    content["whole"]["flagged"] = 7
    place.write_text(json.dumps(content))
    with pytest.raises(StorageError, match="was altered"):
        load_histograms(str(place))
    for damaged in ("", "[]", '{"digest": 1}', place.read_text().replace("counts", "count")):
        place.write_text(damaged)
        with pytest.raises(StorageError, match="not a complete file of histograms"):
            load_histograms(str(place))


def test_cameras_are_counted_beside_groups_and_files_without_them_stay_valid(tmp_path: Path) -> None:
    unnamed = rows(["a", "b", "a"], [0.1, 0.5, 0.9])
    named = unnamed.append_column("camera", pa.array(["DJI FC6310", "", "DJI FC6310"]))
    night = count(named, EDGES, "m") + count(named, EDGES, "m")
    assert {name: tally.scored for name, tally in night.cameras.items()} == {"DJI FC6310": 4}
    place = tmp_path / "night.json"
    place.write_bytes(histograms_file(night))
    assert load_histograms(str(place)).cameras["DJI FC6310"].images == 4
    without = histograms_file(count(unnamed, EDGES, "m"))
    assert "cameras" not in json.loads(without), "as earlier versions wrote it"
    place.write_bytes(without)
    assert load_histograms(str(place)).cameras == {}


@pytest.mark.usefixtures("in_process")
def test_calibrate_writes_a_reference_and_score_counts_every_image_with_its_edges(drawn: Path, tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model", small_spec()))
    assert load_reference(model, "any") is None
    calibrate(CalibrateConfig(model=model, images=str(drawn / "non_crack"), quiet=True))
    out = tmp_path / "out"
    summary = score(ScoreConfig(images=str(drawn), model=model, out=str(out), quiet=True)).summary
    night = load_histograms(str(out / histograms_name(summary["run"])))
    reference = load_reference(model, summary["model"])
    assert reference is not None and night.same_edges(reference)
    assert (reference.whole.scored, reference.whole.flagged) == (240, 12)
    assert night.whole.scored == summary["scored"] == 300 and night.whole.flagged == summary["flagged"]
    assert {name: tally.images for name, tally in night.groups.items()} == {"crack": 60, "non_crack": 240}
    (part,) = tables.list_parts(str(out)).values()
    assert tables.read_parts(part, tables.SCORES_SCHEMA.names).schema == tables.SCORES_SCHEMA
    with pytest.raises(ModelError, match="other weights"):
        load_reference(model, "another")
