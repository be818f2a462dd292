"""A night on structures that were photographed before."""

import json
from pathlib import Path

import pytest
from conftest import small_spec, write_model
from findings_made import RUN, bridge
from visits import Line, photograph

from crackvae.changes.visits import read_visit
from crackvae.config import CalibrateConfig, NightlyConfig
from crackvae.monitoring.notifications import message_of
from crackvae.nights.changes import changes_of_night
from crackvae.nights.nightly import nightly
from crackvae.scoring.calibrate import calibrate

A: Line = ("a", 100, 60, 120, 3.0)


def test_a_damaged_table_costs_a_night_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = bridge(tmp_path / "out")
    (part,) = out.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    found = changes_of_night(str(out), [RUN], NightlyConfig(images=str(tmp_path), model="m", out=str(out)))
    assert list(found) == ["error"] and f"{part} is not a whole part" in str(found["error"])
    assert "no changes: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_night_is_compared_with_the_visit_before(drawn: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec(head="mse"))
    calibrate(CalibrateConfig(model=str(model), images=str(drawn / "non_crack"), quiet=True))
    for night, numbers in (("2026-05-01", (1, 2)), ("2026-11-01", (2, 3))):
        for number in numbers:
            photograph(tmp_path / night / "bridge" / f"{number}.png", number, [A])

    def run(night: str, **values: object) -> dict[str, object]:
        shared = {"images": str(tmp_path / night), "model": str(model), "out": str(tmp_path / "out"), "night": night}
        summary: dict[str, object] = nightly(NightlyConfig(**shared, quiet=True, **values)).summary
        return summary

    assert run("2026-05-01", no_report=True)["changes"] == {}
    summary = run("2026-11-01")
    changes = summary["changes"]
    assert isinstance(changes, dict) and changes["pairs"] == 1 and changes["unmatched"] == 0
    assert Path(changes["report"]).exists() and changes["out"] == str(tmp_path / "out" / "_changes")
    assert json.loads((tmp_path / "out" / "_nightly-2026-11-01.json").read_text())["changes"] == changes
    assert f"{changes['new']} new and {changes['grown']} grown findings" in message_of(summary)
    assert run("2026-11-01", no_changes=True)["changes"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_night_with_another_model_is_compared_by_its_new_photographs(drawn: Path, tmp_path: Path) -> None:
    models = [write_model(tmp_path / f"model-{seed}", small_spec(head="mse", seed=seed)) for seed in (0, 1)]
    for model in models:
        calibrate(CalibrateConfig(model=str(model), images=str(drawn / "non_crack"), quiet=True))

    def changes(night: str, model: Path, *numbers: int) -> dict[str, object]:
        for number in numbers:
            photograph(tmp_path / "in" / night / "bridge" / f"{number}.png", number, [A])
        shared = {"images": str(tmp_path / "in"), "model": str(model), "out": str(tmp_path / "out"), "night": night}
        found: dict[str, object] = nightly(NightlyConfig(**shared, quiet=True, no_report=True)).summary["changes"]
        return found

    changes("2026-05-01", models[0], 1, 2)
    assert changes("2026-11-01", models[1], 2)["pairs"] == 1, "the new model has scored all three photographs"
    assert changes("2026-11-02", models[0], 1)["pairs"] == 1
    assert changes("2026-11-02", models[1])["pairs"] == 1, "the model was exchanged between two calls"
    whole = read_visit(str(tmp_path / "out"))
    last = str(tmp_path / "in" / "2026-11-02" / "bridge" / "1.png")
    assert whole.of_runs(sorted(whole.first_runs["run"].to_pylist())[-1:]).images == [last]
