"""The page of a night: its counts, the order of its images, the files it opens, and missing pictures."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import read_rows, small_spec, write_model

from crackvae.config import ReportConfig, ScoreConfig
from crackvae.errors import ModelError, StorageError
from crackvae.model.calibration import Calibration
from crackvae.model.inference import RecordedModel
from crackvae.reports.night_page import night_figures
from crackvae.reports.night_page.findings import by_group
from crackvae.reports.night_page.night_page import night_page
from crackvae.reports.night_page.nights import has_rows, read_night
from crackvae.reports.overlaps import Views
from crackvae.reports.page import PageSettings
from crackvae.reports.photographs import view_photograph
from crackvae.reports.verb import report
from crackvae.scoring.verb import score
from crackvae.storage import fileio, tables
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, folder_of
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog

# The counts that every summary of a run has.
EMPTY = dict.fromkeys(("listed", "scored", "unreadable", "unreachable", "flagged"), 0)


def page_of(scores: Path, run: str = "", **settings: Any) -> str:
    few: dict[str, Any] = {"n_worst": 6, "n_unflagged": 2, "n_photographs": 0}
    return night_page(read_night(str(scores), run), PageSettings(**few | settings)).html.decode()


def rows_in(html: str) -> list[dict[str, object]]:
    """The rows of the cards, in the order of the page."""
    import html as entities

    return [json.loads(entities.unescape(data)) for data in re.findall(r'data-row="([^"]*)"', html)]


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


@pytest.fixture
def copied(scored_night: Path, tmp_path: Path) -> Path:
    """A copy of the scores of the night for one test."""
    return Path(shutil.copytree(scored_night, tmp_path / "scores"))


def test_the_counts_reconcile(scored_night: Path) -> None:
    assert "71 listed = 69 scored + 2 unreadable + 0 unreachable." in text_of(page_of(scored_night))


def test_counts_that_do_not_add_up_are_reported(copied: Path) -> None:
    (summary,) = copied.glob("_summary-*.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"listed": 99}))
    assert "these numbers do not add up" in page_of(copied)


def test_excluded_files_are_counted_by_kind_and_left_out_images_apart(copied: Path) -> None:
    change_summary(copied, excluded={"hidden": 2, "video <b>": 1}, passed_over=7)
    text = text_of(page_of(copied))
    assert "Excluded files: 2 hidden, 1 video &lt;b&gt;." in text
    assert "7 images were left out by --prefix or --since." in text


def test_a_threshold_that_is_not_valid_here_is_said_before_anything_else(copied: Path) -> None:
    assert "Threshold not valid" not in page_of(copied)
    change_summary(copied, threshold_void={"reason": "half of the images score above it: run crackvae adapt"})
    html = page_of(copied)
    main = html[html.index("<main>") :]
    assert main.index("Threshold not valid:") < main.index('<dl class="facts">')
    assert "half of the images score above it: run crackvae adapt. Flags" in text_of(main)


def test_images_without_a_surface_are_a_group_of_their_own(copied: Path) -> None:
    rows = read_rows(copied)
    (part,) = copied.glob("*.parquet")
    part.unlink()
    blank = pa.array([image.endswith(("003.jpg", "004.jpg")) for image in rows["image"].to_pylist()])
    changed = read_rows_with(
        rows,
        status=pc.if_else(blank, "no_surface", rows["status"]),
        error=pc.if_else(blank, "overexposed", rows["error"]),
        flagged=pc.and_(rows["flagged"], pc.invert(blank)),
    )
    tables.write_part(str(copied), changed, rows["run"][0].as_py(), 0)
    change_summary(copied, scored=67, no_surface=2)
    html = page_of(copied, n_worst=100)
    text = text_of(html)
    assert "71 listed = 67 scored + 2 without a surface + 2 unreadable + 0 unreachable." in text
    assert not {"003.jpg", "004.jpg"} & {Path(str(row["image"])).name for row in rows_in(html)}
    section = html[html.index('<section id="no-surface">') : html.index('<section id="failed">')]
    assert section.count("<td>overexposed</td>") == 2 and "Unreadable (2)" in html


def test_no_flag_contradicts_the_p_value_beside_it(copied: Path) -> None:
    rows = read_rows(copied)
    (part,) = copied.glob("*.parquet")
    part.unlink()
    several = pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1)
    for kind, said in (("", "no p-value (table of an earlier version)"), ("none", "too few calibration images for")):
        old = read_rows_with(
            rows,
            p_value=pc.if_else(several, 1.0, rows["p_value"]),
            flagged=pc.or_(several, rows["flagged"]),
            p_kind=pc.if_else(several, kind, rows["p_kind"]),
        )
        tables.write_part(str(copied), old, rows["run"][0].as_py(), 0)
        text = text_of(page_of(copied, n_worst=100, n_photographs=2))
        assert text.count(said) == 4 and not re.search(r"p = 1 flagged", text)
        (part,) = copied.glob("*.parquet")
        part.unlink()


def change_summary(scores: Path, **values: object) -> None:
    (path,) = scores.glob("_summary-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_queue_holds_the_lowest_p_values_first_and_equal_ones_by_score(scored_night: Path) -> None:
    shown = rows_in(page_of(scored_night, n_worst=10, n_unflagged=0))
    scored = read_rows(scored_night).filter(pc.field("status") == "scored").to_pylist()
    expected = sorted(scored, key=lambda row: (row["p_value"], -row["score"]))[:10]
    assert [row["image"] for row in shown] == [row["image"] for row in expected]


def test_the_random_sample_is_unflagged_and_reproducible(scored_night: Path) -> None:
    first, again = (rows_in(page_of(scored_night, n_worst=0, n_unflagged=3)) for _ in range(2))
    assert len(first) == 3 and not any(row["flagged"] for row in first)
    assert [row["image"] for row in first] == [row["image"] for row in again]


def test_only_the_pictures_that_are_shown_are_opened(scored_night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read = fileio.read_image
    monkeypatch.setattr(fileio, "read_image", lambda image: opened.append(image) or read(image))
    html = page_of(scored_night, n_worst=5, n_unflagged=3, n_photographs=1)
    assert set(opened) - {row["image"] for row in rows_in(html)} <= set(photographs(scored_night))
    assert len(opened) == 5 + 3 + 1


def photographs(scores: Path) -> list[str]:
    rows = read_rows(scores)
    return rows.filter(pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1))["image"].to_pylist()


def test_photographs_are_shown_whole_with_their_tiles(scored_night: Path) -> None:
    text = text_of(page_of(scored_night, n_photographs=2))
    assert "2 of the scored images are photographs" in text and "photograph-1.png" in text
    assert re.search(r"230 × 220 px, 5 × 5 tiles, \d+ above the threshold; p = \S+ No finding was traced", text)
    assert "Cracks by group" not in text


def test_tiles_without_a_surface_leave_the_colour_scale_of_the_grids(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(copied)
    tiles = [[math.nan, *scores[1:]] if len(scores) > 1 else scores for scores in rows["tile_scores"].to_pylist()]
    (part,) = copied.glob("*.parquet")
    part.unlink()
    rows = read_rows_with(rows, tile_scores=pa.array(tiles, pa.list_(pa.float32())))
    tables.write_part(str(copied), rows, rows["run"][0].as_py(), 0)
    highest = []
    monkeypatch.setattr("crackvae.reports.charts.tile_grid", lambda *given: highest.append(given[2]) or "")
    page_of(copied, n_photographs=2)
    scored = [score for scores in tiles if len(scores) > 1 for score in scores if not math.isnan(score)]
    assert highest == [pytest.approx(max(scored))] * 2


def test_the_expected_flags_of_a_page_count_the_tiles_that_show_a_surface(copied: Path) -> None:
    rows = read_rows(copied)
    tiles = [[scores[0], *[math.nan] * (len(scores) - 1)] for scores in rows["tile_scores"].to_pylist() if scores]
    changed = iter(tiles)
    tiles = [next(changed) if scores else [] for scores in rows["tile_scores"].to_pylist()]
    before = read_night(str(copied), "")
    assert "tile_scores" not in before.rows.column_names and max(before.rows["tiles"].to_pylist()) == 25
    (part,) = copied.glob("*.parquet")
    part.unlink()
    rows = read_rows_with(rows, tile_scores=pa.array(tiles, pa.list_(pa.float32())))
    tables.write_part(str(copied), rows, rows["run"][0].as_py(), 0)
    night = read_night(str(copied), "")
    scored = night_figures.scored_numbers(night.rows)
    assert set(scored["tiles"].to_pylist()) == {1} and max(scored["rows"].to_pylist()) == 5
    recorded = RecordedModel(None, "", Calibration(np.linspace(0, 1, 99), 99, "", 0.95, "", leaky=False))
    expected = night_figures.expected_flags(scored, 3, recorded)
    assert expected is not None and expected["images"] == scored.num_rows
    assert night_figures.expected_photographs(scored, recorded) is None


def write_findings(scores: Path, places: Sequence[tuple[float, float]] = ()) -> None:
    """A crack of 120 px and a longer joint in the first photograph, or a crack in each at these places."""
    row = next(one for one in read_rows(scores).to_pylist() if one["image"] == photographs(scores)[0])
    common = {name: row[name] for name in ("image", "group", "run", "model")} | {"score": 1.0, "width_max_px": 4.0}
    common |= {"width_mean_px": 3.0, "width_sigma_px": 0.1, "width_max_sigma_px": 0.2, "length_sigma_px": 2.0}
    common |= {"x_px": [5.0, 60.0, 120.0], "y_px": [9.0, 9.0, 9.0], "widths_px": [3.0, 2.0, 4.0], "mm_source": ""}
    common |= {"left_px": 5, "top_px": 9, "right_px": 121, "bottom_px": 10, "mm_per_px": float("nan")}
    common |= dict.fromkeys(("lat", "lon", "length_mm", "width_max_mm"), math.nan)
    lines = [
        common | {"finding": "0a", "kind": "crack", "length_px": 120.0},
        common | {"finding": "0b", "kind": "joint", "length_px": 150.0},
    ]
    lines = [
        lines[0] | {"finding": str(number), "image": image, "lat": lat, "lon": lon}
        for number, (image, (lat, lon)) in enumerate(zip(photographs(scores), places, strict=False))
    ] or lines
    found = pa.Table.from_pylist(lines, schema=FINDINGS_SCHEMA)
    tables.write_part(folder_of(str(scores)), found, row["run"], 0)


def test_findings_are_in_words_in_a_table_and_summed_up_by_group(copied: Path) -> None:
    write_findings(copied)
    html = page_of(copied, n_photographs=2)
    size = "length 120 ± 3 px, width 3.0 ± 0.2 px on average, 4.0 ± 0.3 px at most"
    assert f"Findings: 1 crack, 1 joint; the longest: {size}" in text_of(html)
    assert size in text_of(html[html.index('<table class="findings">') :])
    assert html.count('<svg class="profile"') == 3 and "width along the trace, up to 4.0 px" in html
    assert "Cracks by group" in text_of(html) and "1 joint is left out" in text_of(html)
    assert re.search(r"120 px\s+120 px\s+4\.0 px", text_of(html))
    assert "<summary><bdi>" in html, "a name that is written from right to left leaves the numbers in their order"
    assert not re.search(r"\d mm\b", text_of(html))


def test_what_reviewers_call_no_crack_is_left_out_of_the_sums_by_group(copied: Path) -> None:
    """As of exports: a page that is rendered after the review has the cracks that a client gets."""
    write_findings(copied)
    log, image = VerdictLog(str(copied)), photographs(copied)[0]
    log.append("verdict-on-a-joint", "anna", [Judgement(Subject(image, "0b"), "crack")])
    html = text_of(page_of(copied, n_photographs=2))
    assert re.search(r"270 px\s+150 px\s+4\.0 px", html) and "Findings: 2 cracks; the longest: length 150" in html
    assert html.count("joint; reviewers: crack") == 2, "in the table of the photograph and in that of its group"
    log.append("verdict-on-a-crack", "anna", [Judgement(Subject(image, "0a"), "sound")])
    html = text_of(page_of(copied, n_photographs=2))
    assert (
        re.search(r"150 px\s+150 px\s+4\.0 px", html) and "1 finding that reviewers call no crack is left out" in html
    )
    assert "Findings: 1 crack, 1 that reviewers call sound; the longest: length 150" in html
    assert html.count("crack; reviewers: sound") == 1


def test_the_log_of_verdicts_is_read_once_for_a_page(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_findings(copied)
    read, refresh = list[int](), VerdictLog.refresh
    monkeypatch.setattr(VerdictLog, "refresh", lambda self: (read.append(1), refresh(self)))
    page_of(copied)
    assert len(read) == 1


def test_a_group_has_millimetres_where_the_scale_of_all_its_findings_is_known() -> None:
    line = {"kind": "crack", "group": "pier", "image": "a", "length_px": 100.0, "width_max_px": 4.0}
    line |= {"finding": "f", "mm_per_px": math.nan, "length_sigma_px": 1.0, "width_mean_px": math.nan, "widths_px": []}
    in_mm = line | {"length_mm": 50.0, "width_max_mm": 2.0}
    unknown = (
        in_mm | {"group": "deck", "length_px": 10.0},
        line | {"group": "deck", "length_mm": math.nan, "width_max_mm": math.nan},
    )
    rows = [in_mm, in_mm | {"length_mm": 70.0}, *unknown]
    for mm_per_px, of_deck in ((None, ("110 px", "100 px", "4.0 px")), (0.3, ("80 mm", "50 mm", "2.00 mm"))):
        found = by_group(pa.Table.from_pylist(rows, FINDINGS_SCHEMA), {}, mm_per_px)
        sizes = {one["group"]: (one["length"], one["longest"], one["widest"]) for one in found}
        assert sizes == {"pier": ("120 mm", "70 mm", "2.00 mm"), "deck": of_deck}


def test_the_longest_group_is_first_in_the_unit_that_is_shown() -> None:
    line = {"kind": "crack", "image": "a", "finding": "f", "width_max_px": 4.0, "width_max_mm": 2.0, "widths_px": []}
    line |= {"mm_per_px": math.nan, "length_sigma_px": 1.0, "width_mean_px": math.nan}
    near, far = {"group": "near", "length_px": 900.0}, {"group": "far", "length_px": 100.0}
    for sizes, order in (((90.0, 300.0), ["far", "near"]), ((math.nan, 300.0), ["near", "far"])):
        rows = [line | one | {"length_mm": size} for one, size in zip((near, far), sizes, strict=True)]
        assert [one["group"] for one in by_group(pa.Table.from_pylist(rows, FINDINGS_SCHEMA), {})] == order


@pytest.mark.parametrize(("precision_m", "has_map"), [(0.0, True), (float("inf"), False)])
def test_places_are_on_a_map_unless_they_are_left_out(copied: Path, precision_m: float, has_map: bool) -> None:
    write_findings(copied, places=[(47.0, 8.0), (47.001, 8.0)])
    assert (b"map of 2 findings" in page_of(copied, gps_precision_m=precision_m).encode()) == has_map


def test_a_crack_in_two_photographs_is_listed_once_with_links_to_both(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_findings(copied, places=[(47.0, 8.0), (47.0, 8.0)])
    compared: list[int] = []

    def second_is_a_view(cracks: pa.Table, most_pairs: int, each: object) -> Views:
        compared.append(most_pairs)
        return Views(["", "0"], 1, 3)

    monkeypatch.setattr("crackvae.reports.overlaps.views_of", second_is_a_view)
    html = page_of(copied, n_photographs=2)
    cracks = html[html.index("Cracks by group") :]
    assert compared == [60] and "of 3 pairs of photographs taken near each other the 1 nearest" in text_of(cracks)
    assert cracks.count('id="finding-0"') == 1 and 'id="finding-1"' not in cracks
    row = cracks[cracks.index('id="finding-0"') : cracks.index("</tr>", cracks.index('id="finding-0"'))]
    assert all(image.rpartition("/")[2] in row for image in photographs(copied))
    assert 'href="#finding-0"' in html, "the second photograph refers to the row of the first"


def test_a_photograph_with_findings_needs_no_anomaly_map(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[str] = []
    real = view_photograph

    def counted(row: dict[str, Any], scores_T: np.ndarray, with_map: bool, **others: Any) -> object:
        explained.extend([row["image"]] * with_map)
        return real(row, scores_T, with_map, **others)

    monkeypatch.setattr("crackvae.reports.photographs.view_photograph", counted)
    write_findings(copied)
    page_of(copied, n_photographs=2)
    assert explained == photographs(copied)[1:]


def test_millimetres_come_only_with_a_scale(copied: Path) -> None:
    write_findings(copied)
    text = text_of(page_of(copied, mm_per_px=0.5, n_photographs=2))
    assert "length 120 ± 3 px (60 mm), width 3.0 ± 0.2 px (1.5 mm) on average" in text


def test_unreadable_images_are_listed_with_their_reasons(scored_night: Path) -> None:
    text = text_of(page_of(scored_night))
    assert "empty file" in text and "not an image in one of the formats" in text and "&lt;b&gt;text.jpg" in text


def test_the_number_of_flagged_images_is_beside_the_expected_one(scored_night: Path) -> None:
    # 49 of the 99 made-up calibration scores lie above the threshold: (1 + 49) / (99 + 1), of 67 images of one tile.
    text = text_of(page_of(scored_night))
    assert re.search(r"expected if all sound, one tile\s*3[345]\s*2\d to 4\d \(95 %\)", text)
    assert re.search(r"\d+ of 67 images of one tile are flagged. At the calibrated false-alarm rate of 5[01] %", text)


def test_a_night_of_photographs_alone_has_the_expected_number_too(copied: Path) -> None:
    rows = read_rows(copied)
    (part,) = copied.glob("*.parquet")
    part.unlink()
    photographs = rows.filter(pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1))
    photographs = photographs.set_column(
        rows.schema.get_field_index("p_kind"), "p_kind", pa.array(["tiles"] * photographs.num_rows)
    )
    tables.write_part(str(copied), photographs, rows["run"][0].as_py(), 0)
    text = text_of(page_of(copied))
    assert re.search(r"expected if all sound\s*[\d.]+ ", text) and "of one tile" not in text
    assert re.search(rf"Of {photographs.num_rows} photographs \d are flagged; [\d.]+ expected if all are sound", text)


def test_missing_and_replaced_pictures_are_reported_on_the_page(copied: Path) -> None:
    rows = read_rows(copied)
    gone = rows["image"].to_pylist()
    names = pa.array([f"{name}.gone" for name in gone])
    (part,) = copied.glob("*.parquet")
    part.unlink()
    rows = rows.set_column(0, "image", names)
    tables.write_part(str(copied), rows, rows["run"][0].as_py(), 0)
    html = page_of(copied, n_worst=3, n_unflagged=0)
    assert html.count("can no longer be fetched: No such file or directory") == 3 and "no picture" in html
    part.unlink()
    replaced = read_rows_with(rows, image=pa.array(gone), width=pa.array(np.full(len(gone), 65, np.int32)))
    tables.write_part(str(copied), replaced, rows["run"][0].as_py(), 0)
    assert "has been replaced by another picture since it was scored" in page_of(copied, n_worst=3, n_unflagged=0)


def read_rows_with(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def test_without_its_model_the_page_has_pictures_but_no_maps_and_says_why(copied: Path) -> None:
    (summary,) = copied.glob("_summary-*.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"model_dir": "/gone"}))
    html = page_of(copied)
    assert "No anomaly maps: /gone is no model directory" in html
    assert 'alt="picture of' in html and 'alt="anomaly map of' not in html


@pytest.mark.parametrize("content", [None, b"{half"], ids=["missing", "damaged"])
def test_without_the_calibration_of_its_model_the_page_says_why_it_has_no_maps(
    content: bytes | None, scored_night: Path, copied: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(scored_night.parent / "model", tmp_path / "model"))
    (model / "calibration.json").unlink()
    if content:
        (model / "calibration.json").write_bytes(content)
    (summary,) = copied.glob("_summary-*.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"model_dir": str(model)}))
    assert f"No anomaly maps: {model}/calibration.json is missing or damaged" in page_of(copied)
    with pytest.raises(ModelError, match="is missing or damaged"):
        page_of(copied, model_dir=str(model))


def test_another_model_is_refused(scored_night: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", small_spec(seed=4))
    with pytest.raises(ModelError, match="is not the model of these scores"):
        page_of(scored_night, model_dir=str(other))


def test_a_folder_without_scores_and_a_run_that_is_not_there_are_refused(scored_night: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no scores"):
        read_night(str(tmp_path), "")
    with pytest.raises(StorageError, match="holds no run 1999: it has"):
        read_night(str(scored_night), "1999")


def test_a_run_that_scored_no_image_is_refused_in_one_line(copied: Path) -> None:
    (run,) = tables.list_parts(str(copied))
    (copied / f"_summary-{run}9.json").write_text(json.dumps(EMPTY | {"run": f"{run}9"}))
    with pytest.raises(StorageError, match=f"scored no image.* has {run} and 1 in all.*--run all") as refused:
        read_night(str(copied), f"{run}9")
    assert "\n" not in str(refused.value)


def split_into_runs(scores: Path, *names: str) -> pa.Table:
    """Distribute the rows of the only run to runs of these names, and delete its summary."""
    rows = read_rows(scores)
    for path in [*scores.glob("*.parquet"), *scores.glob("_summary-*")]:
        path.unlink()
    for number, name in enumerate(names):
        mine = rows.filter(pa.array(np.arange(rows.num_rows) % len(names) == number))
        tables.write_part(str(scores), read_rows_with(mine, run=pa.array([name] * mine.num_rows)), name, 0)
    return rows


def test_rows_of_an_interrupted_run_are_on_the_page_of_the_next_completed_run(copied: Path) -> None:
    rows = split_into_runs(copied, "20260101T000000_0", "20260102T000000_0", "20260103T000000_0")
    summary = EMPTY | {"run": "20260101T000000_0", "scored": 1}
    (copied / "_summary-20260101T000000_0.json").write_text(json.dumps(summary))
    night = read_night(str(copied), "")
    assert night.run == "20260103T000000_0" and night.interrupted == ["20260102T000000_0"]
    assert night.rows.num_rows == pytest.approx(rows.num_rows * 2 / 3, abs=1)
    assert "also shows 1 interrupted run (20260102T000000_0)" in text_of(page_of(copied))
    assert has_rows(str(copied), "20260104T000000_0") and read_night(str(copied), "all").rows.num_rows == rows.num_rows


def test_a_run_without_rows_after_a_completed_run_has_no_page(copied: Path) -> None:
    split_into_runs(copied, "20260101T000000_0")
    (copied / "_summary-20260101T000000_0.json").write_text(json.dumps(EMPTY | {"run": "20260101T000000_0"}))
    assert not has_rows(str(copied), "20260104T000000_0")


def test_the_last_of_several_rows_of_an_image_counts(copied: Path) -> None:
    rows = split_into_runs(copied, "20260101T000000_0")
    later = read_rows_with(
        rows.slice(0, 5), run=pa.array(["20260102T000000_0"] * 5), score=pa.array(np.full(5, 9, np.float32))
    )
    tables.write_part(str(copied), later, "20260102T000000_0", 0)
    night = read_night(str(copied), "all")
    assert night.rows.num_rows == rows.num_rows
    assert pc.sum(pc.equal(night.rows["score"], np.float32(9))).as_py() == 5


def test_the_trend_needs_two_runs_and_leaves_out_a_damaged_summary(copied: Path) -> None:
    assert "The latest runs in this folder" not in page_of(copied)
    for day in (1, 2):
        summary = EMPTY | {"run": f"2026010{day}T000000_0", "scored": 10, "flagged": day}
        (copied / f"_summary-2026010{day}T000000_0.json").write_text(json.dumps(summary))
    (copied / "_summary-20260103T000000_0.json").write_text("{half")
    html = page_of(copied)
    assert "The latest runs in this folder" in html and "1 damaged run summaries" in text_of(html)


def test_drift_is_shown_if_the_summary_contains_it(copied: Path) -> None:
    assert "Drift" not in page_of(copied)
    rows = [
        {"group": "<i>", "measure": "blur", "value": 0.25, "usual": 0.5, "verdict": "alarm"},
        {"group": "all images", "measure": "flagged", "value": 0.05, "usual": None, "verdict": "ok"},
    ]
    drift = {"verdict": "watch", "causes": ["blurred"], "where": "<i>", "rows": rows}
    (summary,) = copied.glob("_summary-*.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"drift": drift}))
    text = text_of(page_of(copied))
    assert "Drift against the calibration: watch , likely blurred (&lt;i&gt;)" in text
    assert "&lt;i&gt; blur 0.25 0.5 alarm" in text
    assert "1 comparisons within the limits" in text and "all images flagged 5 % – ok" in text


def test_a_night_in_which_nothing_could_be_read_has_a_page(copied: Path) -> None:
    rows = read_rows(copied).filter(pc.field("status") != "scored")
    (part,) = copied.glob("*.parquet")
    part.unlink()
    tables.write_part(str(copied), rows, rows["run"][0].as_py(), 0)
    assert "No image was scored." in page_of(copied)


@pytest.mark.usefixtures("in_process")
def test_score_writes_the_page_beside_the_table_and_readers_of_the_table_do_not_see_it(
    scored_night: Path, model_dir: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    settings = {"images": str(scored_night.parent / "images" / "bridge-0"), "model": str(model_dir), "quiet": True}
    outcome = score(ScoreConfig(out=str(tmp_path / "scores"), **settings))
    page = tmp_path / "scores" / f"_report-{outcome.summary['run']}.html"
    assert outcome.summary["report"] == str(page) and page.read_bytes().startswith(b"<!doctype html>")
    assert pq.read_table(tmp_path / "scores").num_rows == outcome.summary["listed"]
    assert score(ScoreConfig(out=str(tmp_path / "scores"), **settings)).summary["report"] == ""
    without = score(ScoreConfig(out=str(tmp_path / "other"), no_report=True, **settings))
    assert without.summary["report"] == "" and not list((tmp_path / "other").glob("*.html"))


def test_a_page_or_a_picture_never_breaks_the_table_beside_it(copied: Path) -> None:
    import pyarrow.parquet as pq

    def write(name: str) -> None:
        settings = {"worst": 2, "passed": 0, "photographs": 0, "quiet": True}
        report(ReportConfig(scores=str(copied), out=str(copied / name), full_size=True, **settings))

    for name in ("report.html", "pages/report.html"):
        with pytest.raises(StorageError, match="would break the table of scores"):
            write(name)
    for name in ("_report.html", "_pages/report.html"):
        write(name)
        assert pq.read_table(copied).num_rows == 71


def test_full_size_pictures_lie_beside_a_page_whose_address_has_options(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, bytes] = {}
    monkeypatch.setattr("crackvae.reports.write_report.fileio.write_bytes", written.__setitem__)
    out = "s3://bucket/pages/night.html?region=eu-central-1"
    settings = {"worst": 1, "passed": 0, "photographs": 0, "quiet": True}
    report(ReportConfig(scores=str(copied), out=out, full_size=True, **settings))
    page, *pictures = written
    assert page == out and pictures[0] == "s3://bucket/pages/night_files/001-picture.png?region=eu-central-1"
    assert b'href="./night_files/001-picture.png"' in written[page]
