"""The verb `change`: visits, pairs, the table, histories, the page, and what cannot be compared."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import small_spec, write_model
from findings_made import write_scores
from visits import Line, visit

import crackvae
from crackvae.changes import spread, visits
from crackvae.errors import ConfigError, ManifestError, StorageError
from crackvae.model import calibration
from crackvae.model.inference import load_scorer
from crackvae.results import ChangeResult
from crackvae.storage import tables
from crackvae.storage.tables import changes
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog

pytestmark = pytest.mark.slow

A: Line = ("a", 100, 60, 120, 3.0)
LONGER: Line = ("a2", 100, 60, 180, 3.0)
LONGEST: Line = ("a3", 100, 60, 260, 3.0)
B: Line = ("b", 200, 60, 120, 3.0)
C: Line = ("c", 60, 80, 90, 3.0)


def change(before: Path, after: Path, **values: object) -> ChangeResult:
    result: ChangeResult = crackvae.change(before=before, after=after, quiet=True, **values)
    return result


def rows_of(result: ChangeResult) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = changes.read_changes(result.out).to_pylist()
    return [row for row in rows if row["run"] == result.summary["run"]]


@pytest.fixture(scope="module")
def spring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    visit(folder, "2024", {"bridge/1.png": (3, [A, B]), "bridge/2.png": (4, [A]), "bridge/3.png": (5, [])})
    visit(
        folder, "2025", {"bridge/1.png": (3, [LONGER, C]), "bridge/3.png": (5, []), "bridge/4.png": (6, [B])}, (5, -3)
    )
    return folder


def test_two_visits_are_compared_photograph_by_photograph(spring: Path) -> None:
    result = change(spring / "scores-2024", spring / "scores-2025")
    assert (result.pairs, result.compared, result.summary["nothing_found"]) == (2, 1, 1)
    assert (result.new, result.grown, result.static, result.gone, result.not_seen) == (1, 1, 0, 1, 2)
    by_status = {(row["status"], row["finding"] or row["previous"]) for row in rows_of(result)}
    assert by_status == {("grown", "a2"), ("new", "c"), ("gone", "b"), ("not seen", "a"), ("not seen", "b")}
    assert result.out == str(spring / "scores-2025" / "_changes")
    assert result.tables["new and grown"]["status"].to_list() == ["new", "grown"]
    assert Path(result.csv).read_text().count("\n") == 6
    assert tables.list_parts(str(spring / "scores-2025")).keys() == {"20250501T000000_000000"}
    html = Path(result.page).read_text()
    assert html.index(">New<") < html.index(">Grown<") and html.count("data:image/webp") == 6
    assert "length changed by 60 px" in html, "a finding that is only longer is not called wider"
    assert "no earlier photograph of its place" in html and "http" not in html.replace("http-equiv", "")


def test_a_printed_page_shows_the_photographs_of_both_visits_beside_each_other(
    spring: Path, browser: Any, tmp_path: Path
) -> None:
    result = change(spring / "scores-2024", spring / "scores-2025", out=tmp_path / "changes")
    tab = browser.new_page()
    tab.goto(Path(result.page).as_uri())
    tab.emulate_media(media="print")
    places = (
        "['.before', '.after', 'svg'].map(name => document.querySelector('.stack ' + name).getBoundingClientRect())"
    )
    before, after, traces = tab.evaluate(f"{places}.map(box => [box.left, box.right, box.top, box.bottom])")
    assert before[0] < before[1] <= after[0] < after[1] and before[2:] == after[2:]
    assert traces == pytest.approx(after, abs=1), "the trace lies on the later photograph"
    tab.close()


def test_findings_and_exports_have_their_status_since_the_visit_before(spring: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no table of changes: run crackvae change"):
        crackvae.read_changes(spring / "scores-2024")
    scores = tmp_path / "scores"
    shutil.copytree(spring / "scores-2025", scores, ignore=shutil.ignore_patterns("_changes"))
    change(spring / "scores-2024", scores)
    read = crackvae.read_findings(scores, ["finding", "status", "previous"]).to_pylist()
    assert {(row["finding"], row["status"], row["previous"]) for row in read} == {
        ("a2", "grown", "a"),
        ("c", "new", ""),
        ("b", "", ""),
    }
    assert set(crackvae.read_changes(scores, ["status"])["status"].to_pylist()) == {"new", "grown", "gone", "not seen"}
    assert crackvae.read_changes(scores / "_changes").num_rows == 5
    crackvae.findings(scores=scores, out=tmp_path / "findings.geojson", quiet=True)
    features = json.loads((tmp_path / "findings.geojson").read_text())["features"]
    exported = {one["id"]: (one["properties"].get("status"), one["properties"].get("previous")) for one in features}
    assert exported == {"a2": ("grown", "a"), "c": ("new", None), "b": (None, None)}


def test_what_reviewers_call_no_crack_at_either_visit_is_not_counted(spring: Path, tmp_path: Path) -> None:
    for year in ("2024", "2025"):
        ignored = shutil.ignore_patterns("_changes")
        shutil.copytree(spring / f"scores-{year}", tmp_path / f"scores-{year}", ignore=ignored)
    before, after = tmp_path / "scores-2024", tmp_path / "scores-2025"
    earlier, later = (str(spring / f"{year}-05-01" / "bridge" / "1.png") for year in ("2024", "2025"))
    VerdictLog(str(before)).append("verdicts-of-anna", "anna", [Judgement(Subject(earlier, "a"), "sound")])
    VerdictLog(str(after)).append("verdicts-of-anna", "anna", [Judgement(Subject(later, "c"), "joint")])
    result = change(before, after)
    assert (result.new, result.grown, result.gone, result.summary["judged_no_crack"]) == (0, 1, 1, 1)
    VerdictLog(str(after)).append("verdicts-of-anna-2", "anna", [Judgement(Subject(later, "a2"), "sound")])
    result = change(before, after)
    assert (result.new, result.grown, result.gone, result.summary["judged_no_crack"]) == (0, 0, 1, 2)
    assert result.tables["new and grown"].empty
    assert {row["finding"]: row["verdict"] for row in rows_of(result)} == {"a2": "sound", "c": "joint", "": "", "b": ""}
    html = Path(result.page).read_text()
    assert "nor 2 findings that reviewers call sound or a joint: 1 grown, 1 new." in html and "Nothing new." in html
    VerdictLog(str(after)).append("verdicts-of-anna-3", "anna", [Judgement(Subject(later, "a2"), "crack")])
    again = change(before, after)
    assert (again.new, again.grown, again.summary["judged_no_crack"]) == (0, 1, 1)
    assert "a crack, as reviewers agree" in Path(again.page).read_text()


def test_pairs_named_in_a_csv_are_compared(spring: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("before,after\n1.png,4.png\n")
    result = change(
        spring / "scores-2024", spring / "scores-2025", pairs=tmp_path / "pairs.csv", out=tmp_path / "changes"
    )
    assert (result.pairs, result.compared, result.unmatched) == (1, 0, 3)
    assert "features" in Path(result.page).read_text(), "another surface does not register"
    (tmp_path / "pairs.csv").write_text("before,after\n9.png,4.png\n")
    with pytest.raises(ManifestError, match=r"line 2: before=9.png is no photograph"):
        change(spring / "scores-2024", spring / "scores-2025", pairs=tmp_path / "pairs.csv", out=tmp_path / "changes")


def test_a_history_follows_a_crack_over_three_visits_in_one_table(tmp_path: Path) -> None:
    out = tmp_path / "scores"
    results = []
    for year, line, shift in (("2024", A, (0, 0)), ("2025", LONGER, (4, 2)), ("2026", LONGEST, (-3, 5))):
        visit(tmp_path, year, {"wall/1.png": (3, [line])}, shift, out=out)
        if year != "2024":
            results.append(change(out, out))
    rows = changes.read_changes(str(out / "_changes")).to_pylist()
    assert [(row["status"], row["history"], row["previous"], row["finding"]) for row in rows] == [
        ("grown", "a", "a", "a2"),
        ("grown", "a", "a2", "a3"),
    ]
    assert [row["taken"].year for row in rows] == [2025, 2026]
    assert "length at 3 visits: 120 → 180 → 260 px" in Path(results[1].page).read_text()


def test_a_photograph_that_has_changed_since_it_was_scored_is_not_compared(tmp_path: Path) -> None:
    before = visit(tmp_path, "2024", {"1.png": (3, [A])})
    after = visit(tmp_path, "2025", {"1.png": (3, [LONGER])})
    (tmp_path / "2024-05-01" / "1.png").write_bytes(b"replaced")
    row = rows_of(change(before, after))[0]
    assert row["status"] == "unmatched"
    assert row["reason"] == "the earlier photograph: its file has changed since it was scored"


def test_another_model_is_not_growth(tmp_path: Path) -> None:
    before = visit(tmp_path, "2024", {"1.png": (3, [A])}, model="other")
    after = visit(tmp_path, "2025", {"1.png": (3, [LONGER])})
    result = change(before, after)
    assert (result.unmatched, result.grown, result.summary["scored_again"]) == (1, 0, 0)
    assert "another model or threshold, or without findings, and cannot be scored again" in rows_of(result)[0]["reason"]


@pytest.mark.usefixtures("in_process")
def test_earlier_photographs_are_scored_again_with_the_model_of_the_later_ones(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit(tmp_path, "2024", {"1.png": (3, [A])})
    visit(tmp_path, "2025", {"1.png": (3, [LONGER])})
    scores = [tmp_path / "real-2024", tmp_path / "real-2025"]
    other = write_model(tmp_path / "other", small_spec(seed=1))
    for out, year, model in zip(scores, ("2024", "2025"), (other, model_dir), strict=True):
        crackvae.score(images=tmp_path / f"{year}-05-01", model=model, out=out, no_report=True, quiet=True)
    result = change(*scores)
    assert result.summary["scored_again"] == 1 and result.summary["unmatched_pairs"] == 0
    (table,) = (scores[1] / "_changes" / "_scores").iterdir()
    again = tables.read_scores(str(table), ["image", "model"]).to_pylist()
    assert again == [{"image": str(tmp_path / "2024-05-01" / "1.png"), "model": result.summary["model"]}]


@pytest.mark.usefixtures("in_process")
def test_photographs_are_scored_again_with_each_threshold_that_the_later_ones_have(
    tmp_path: Path, model_dir: Path
) -> None:
    for year in ("2024", "2025"):
        visit(tmp_path, year, {"1.png": (3, [A])})
    model, out = shutil.copytree(model_dir, tmp_path / "model"), tmp_path / "changes"
    given = load_scorer(str(model)).calibration
    found = []
    for number, factor in enumerate((1, 2, 3)):
        changed = calibration.calibration_file(replace(given, threshold=factor * given.threshold))
        (model / calibration.FILE).write_bytes(changed)
        scores, images = tmp_path / str(number), tmp_path / ("2025-05-01" if number else "2024-05-01")
        crackvae.score(images=images, model=model, out=scores, no_report=True, quiet=True)
        if number:
            found.append(change(tmp_path / "0", scores, out=out).summary)
    assert [(one["scored_again"], one["unmatched_pairs"]) for one in found] == [(1, 0), (1, 0)]


def test_photographs_whose_cracks_were_not_traced_have_no_findings_to_compare(tmp_path: Path) -> None:
    images = {"/a.jpg": {"untraced": True, "threshold": 0.0}, "/b.jpg": {"untraced": False, "threshold": 0.0}}
    out = str(write_scores(tmp_path, [], images))
    names, _ = visits._findings(out, visits.read_visit(out).rows, "m", 0.0)
    assert names == {"/b.jpg"}


@pytest.mark.usefixtures("in_process", "builtin_model")
def test_two_folders_of_photographs_are_scored_and_compared(tmp_path: Path) -> None:
    visit(tmp_path, "2024", {"wall/1.png": (3, [A]), "wall/2.png": (4, [A])})
    visit(tmp_path, "2025", {"wall/1.png": (3, [LONGER]), "wall/2.png": (4, [A])})
    with pytest.raises(ConfigError, match="holds no scores: give --out"):
        change(tmp_path / "2024-05-01", tmp_path / "2025-05-01")
    result = change(tmp_path / "2024-05-01", tmp_path / "2025-05-01", out=tmp_path / "changes")
    assert result.pairs == 2


def test_visits_without_a_common_path_need_a_csv_or_places(tmp_path: Path) -> None:
    before = visit(tmp_path, "2024", {"1.png": (3, [A])})
    after = visit(tmp_path, "2025", {"2.png": (3, [A])})
    with pytest.raises(StorageError, match="name the pairs in a CSV, --pairs, or pair photographs by the places"):
        change(before, after)
    with pytest.raises(StorageError, match="are scores of the same photographs, and not of two visits"):
        change(before, shutil.copytree(before, tmp_path / "copy"))
    result = change(before, after, within=2)
    assert (result.pairs, result.static) == (1, 1)


@pytest.mark.usefixtures("ray_session")
def test_the_workers_of_ray_give_the_rows_of_this_process(
    spring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = change(spring / "scores-2024", spring / "scores-2025", out=tmp_path / "ray", workers=2)
    monkeypatch.setattr(spread.actors, "needs_ray", lambda images, config: False)
    here = change(spring / "scores-2024", spring / "scores-2025", out=tmp_path / "here")
    both = [changes.read_changes(one.out).drop_columns(["run"]) for one in (on_ray, here)]
    assert both[0].equals(both[1]) or both[0].to_pandas().equals(both[1].to_pandas())


def test_findings_are_grouped_by_image_in_any_order() -> None:
    rows = [{"finding": name, "image": image} for name, image in (("1", "b"), ("2", "a"), ("3", "b"))]
    alike = visits.Alike(pa.Table.from_pylist(rows, visits.FINDINGS_SCHEMA), "m", {}, 0)
    grouped = alike.by_image(["b", "c", "a"]).to_pylist()
    assert [[one["finding"] for one in found] for found in grouped] == [["1", "3"], [], ["2"]]
