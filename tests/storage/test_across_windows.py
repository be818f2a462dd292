"""Findings of windows of one TIFF: one crack is one finding, whatever the order of its parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from findings_made import finding, write_scores

from crackvae.storage.names.excerpts import Window, excerpt_of
from crackvae.storage.tables.across_windows import joined
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, read_findings
from crackvae.storage.tables.traces import branches_of, trace_of

WINDOW_PX, STEP_PX = 1000, 800


def wandering(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """A line that wanders, with a point every pixel or so, float (N, 2), x and y in the file."""
    start_2, end_2 = np.array(start, float), np.array(end, float)
    along_2 = (end_2 - start_2) / np.hypot(*(end_2 - start_2))
    at_N = np.arange(np.hypot(*(end_2 - start_2)))[:, None]
    return start_2 + at_N * along_2 + 9 * np.sin(at_N / 40) * along_2[::-1] * [-1, 1]


def length_of(points_N2: np.ndarray) -> float:
    return float(np.hypot(*np.diff(points_N2, axis=0).T).sum())


def as_traced(line_N2: np.ndarray, kind: str = "crack", file: str = "/a/ortho.tif") -> list[dict[str, Any]]:
    """What each window traces of a line: off by a pixel, and stray in the last pixels before its border."""
    rng, found = np.random.default_rng([5, int(line_N2[0, 0])]), []
    for y in range(0, 4 * STEP_PX, STEP_PX):
        for x in range(0, 4 * STEP_PX, STEP_PX):
            inside = ((line_N2 >= [x, y]) & (line_N2 < [x + WINDOW_PX, y + WINDOW_PX])).all(axis=1)
            if inside.sum() < 40:
                continue
            local_N2 = line_N2[inside] - [x, y] + rng.uniform(-1, 1, 2)
            near_border = np.minimum(local_N2, WINDOW_PX - local_N2).min(axis=1) < 12
            local_N2[near_border] += 5
            image = str(Window(file, x, y, WINDOW_PX, WINDOW_PX))
            values = {"x_px": local_N2[:, 0], "y_px": local_N2[:, 1], "widths_px": np.where(near_border, np.nan, 3.0)}
            name = f"{file}-{x}-{y}-{line_N2[0, 0]:.0f}-{line_N2[0, 1]:.0f}"
            found.append(finding(name, image, length_px=length_of(local_N2), kind=kind, mm_per_px=2.0, **values))
    return found


def in_file(row: dict[str, Any]) -> np.ndarray:
    window = excerpt_of(row["image"])
    assert isinstance(window, Window)
    return np.asarray(trace_of(row) + np.array([window.x, window.y]))


def joined_rows(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = joined(pa.Table.from_pylist(parts, FINDINGS_SCHEMA)).to_pylist()
    return sorted(rows, key=lambda row: str(row["finding"]))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((300, 500), (2900, 620)),  # through four windows in a row
        ((700, 700), (1150, 1130)),  # through the corner that four windows share
        ((900, 100), (905, 2300)),  # along the middle of an overlap
        ((150, 120), (2650, 2700)),  # diagonal
        ((820, 830), (960, 940)),  # within what four windows share
    ],
)
def test_a_crack_across_windows_is_one_finding_with_its_length_and_its_line(
    start: tuple[float, float], end: tuple[float, float]
) -> None:
    line_N2 = wandering(start, end)
    parts = as_traced(line_N2)
    assert len(parts) > 1
    (row,) = joined_rows(parts)
    assert row["length_px"] == pytest.approx(length_of(line_N2), rel=0.03, abs=8)
    assert row["length_mm"] == pytest.approx(2 * row["length_px"])
    trace_N2 = in_file(row)
    known_N2 = trace_N2[~np.isnan(trace_N2[:, 0])]
    distances_NM = np.hypot(*(known_N2[:, None] - line_N2[None]).transpose(2, 0, 1))
    assert distances_NM.min(axis=1).max() < 9 and distances_NM.min(axis=0).max() < 12
    assert len(branches_of(trace_N2)) == 1
    window = excerpt_of(row["image"])
    assert row["left_px"] + window.x <= known_N2[:, 0].min() and row["right_px"] + window.x > known_N2[:, 0].max()
    assert row["length_px"] >= 0.99 * max(part["length_px"] for part in parts)
    (again,) = joined_rows(parts[::-1])
    assert [again[name] for name in ("finding", "image", "length_px")] == [
        row["finding"],
        row["image"],
        row["length_px"],
    ]
    np.testing.assert_array_equal(trace_of(again), trace_of(row))


def test_the_whole_is_longer_than_its_trace_by_the_bends_that_its_pieces_have() -> None:
    parts = as_traced(wandering((300, 500), (2900, 620)))
    (plain,) = joined_rows(parts)
    (rough,) = joined_rows([part | {"length_px": 1.1 * part["length_px"]} for part in parts])
    assert rough["length_px"] == pytest.approx(1.1 * plain["length_px"])
    assert rough["length_mm"] == pytest.approx(1.1 * plain["length_mm"])
    assert rough["straightness"] == pytest.approx(plain["straightness"] / 1.1)


def test_cracks_that_only_cross_or_lie_in_other_files_or_models_stay_apart() -> None:
    across, down = wandering((300, 850), (1700, 900)), wandering((900, 100), (870, 1700))
    other_file = as_traced(across, file="/a/other.tif")
    other_model = [part | {"model": "n", "finding": part["finding"] + "n"} for part in as_traced(across)]
    photograph = [finding("photograph", "/a/1.jpg")]
    rows = joined_rows([*as_traced(across), *as_traced(down, "joint"), *other_file, *other_model, *photograph])
    assert len(rows) == 5 and sorted(row["kind"] for row in rows) == ["crack"] * 4 + ["joint"]


def test_a_branch_that_one_window_sees_is_a_branch_of_the_whole() -> None:
    main, side = wandering((300, 500), (1700, 520)), wandering((1300, 520), (1450, 900))
    first, second = as_traced(main)[:2]
    x = excerpt_of(second["image"]).x
    for name, values in (("x_px", side[:, 0] - x), ("y_px", side[:, 1]), ("widths_px", np.full(len(side), 3.0))):
        second[name] = np.concatenate([second[name], [np.nan], values])
    second["length_px"] += length_of(side)
    (row,) = joined_rows([first, second])
    assert len(branches_of(trace_of(row))) == 2
    assert row["length_px"] == pytest.approx(length_of(main) + length_of(side), rel=0.03)


def test_read_findings_joins_what_a_table_holds_of_windows(tmp_path: Path) -> None:
    parts = as_traced(wandering((300, 500), (2900, 620)))
    images = {part["image"]: {"width": WINDOW_PX, "height": WINDOW_PX} for part in parts}
    out = write_scores(tmp_path / "out", parts, images)
    (row,) = read_findings(str(out)).to_pylist()
    assert row["length_px"] > 2500 and row["image"] in images
