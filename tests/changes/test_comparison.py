"""A pair of photographs compared: the rows of the table of changes."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from crackvae.changes.comparison import TO_COMPARE_SCHEMA, compare, compared_rows
from crackvae.errors import UnreadableImage
from crackvae.images import synthetic
from crackvae.storage.tables.changes import CHANGES_COLUMN, CHANGES_SCHEMA, PAIRS_SCHEMA
from crackvae.storage.tables.findings import FINDINGS_SCHEMA

SHIFT = np.array([[1, 0, 6], [0, 1, -4]], float)


def finding(name: str, x: float, y: float, length: int, **values: object) -> dict[str, Any]:
    xs = [*(x + np.arange(length)), float("nan")]
    row = dict.fromkeys(FINDINGS_SCHEMA.names) | {"finding": name, "model": "m", "kind": "crack", "mm_per_px": 0.5}
    row |= {"x_px": xs, "y_px": [y] * len(xs), "widths_px": [3.0] * len(xs)}
    row |= {"length_px": length, "length_sigma_px": 2.0, "width_mean_px": 3.0, "width_sigma_px": 0.2}
    return row | values


def pair(before: list[dict[str, Any]], after: list[dict[str, Any]], **values: object) -> dict[str, Any]:
    row = {"image": "now.jpg", "previous_image": "old.jpg", "group": "g", "reason": "", "run": "r"}
    return row | {"before": before, "after": after, "bytes": 0} | values


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    before = synthetic.draw_concrete(np.random.default_rng(3), 300, 400)[..., 0]
    return {
        "old.jpg": before,
        "now.jpg": cv2.warpAffine(before, SHIFT, (400, 300), borderMode=cv2.BORDER_REFLECT),
        "blank.jpg": np.full((300, 400), 128, np.uint8),
    }


def changes(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(row[CHANGES_COLUMN])


def with_line(pixels_HW: np.ndarray, y: int, x: int, length: int, darkness: float = 0.4) -> np.ndarray:
    drawn_HW = pixels_HW.copy()
    drawn_HW[y - 1 : y + 2, x : x + length] = drawn_HW[y - 1 : y + 2, x : x + length] * (1 - darkness)
    return drawn_HW


def test_each_finding_has_a_row(pixels: dict[str, np.ndarray]) -> None:
    before = [finding("a", 50, 100, 120), finding("b", 50, 200, 120)]
    after = [finding("c", 56, 96, 180), finding("d", 56, 50, 120)]
    shown = {
        "old.jpg": with_line(pixels["old.jpg"], 200, 50, 120),
        "now.jpg": with_line(pixels["now.jpg"], 50, 56, 120),
    }
    row = compare(pair(before, after), shown.__getitem__)
    assert row["status"] == "compared" and row["residual_px"] < 0.5
    assert np.allclose(np.reshape(row["homography"], (3, 3))[:2], SHIFT, atol=0.6)
    rows = {one["status"]: one for one in changes(row)}
    assert {name: (one["finding"], one["previous"], one["history"]) for name, one in rows.items()} == {
        "grown": ("c", "a", "a"),
        "gone": ("", "b", "b"),
        "new": ("d", "", "d"),
    }
    grown = rows["grown"]
    assert grown["length_change_low_px"] < grown["length_change_px"] == pytest.approx(60, abs=1)
    assert grown["length_px"] - grown["previous_length_px"] == grown["length_change_px"]
    assert grown["length_change_mm"] == pytest.approx(grown["length_change_px"] / 2)
    assert (rows["new"]["length_px"], rows["gone"]["previous_length_px"]) == (120, pytest.approx(120, abs=1))


@pytest.mark.parametrize(
    ("before", "after", "statuses"),
    [
        (0.4, 0.4, ["static", "static"]),
        (0.3, 0.4, ["static", "static"]),  # another exposure
        (0.0, 0.4, ["new", "static"]),
        (0.1, 0.4, ["new", "static"]),
        (0.4, 0.0, ["static", "gone"]),
    ],
)
def test_what_the_other_photograph_shows_untraced_is_neither_new_nor_gone(
    pixels: dict[str, np.ndarray], before: float, after: float, statuses: list[str]
) -> None:
    shown = {
        "old.jpg": with_line(pixels["old.jpg"], 200, 50, 120, before),
        "now.jpg": with_line(pixels["now.jpg"], 196, 56, 120, after),
    }
    found = [
        changes(compare(pair(*findings), shown.__getitem__))
        for findings in (([], [finding("a", 56, 196, 120)]), ([finding("b", 50, 200, 120)], []))
    ]
    assert [one["status"] for (one,) in found] == statuses
    assert all(one["reason"].endswith("not traced there") for (one,) in found if one["status"] == "static")


def test_rows_travel_as_tables(pixels: dict[str, np.ndarray]) -> None:
    sent = pa.Table.from_pylist([pair([finding("a", 50, 100, 120)], []), pair([], [])], schema=TO_COMPARE_SCHEMA)
    came = compared_rows(sent, pixels.__getitem__)
    assert came.select(PAIRS_SCHEMA.names).schema.equals(PAIRS_SCHEMA)
    assert came["status"].to_pylist() == ["compared", "nothing found"]
    assert set(changes(came.to_pylist()[0])[0]) == set(CHANGES_SCHEMA.names)


def test_nothing_is_claimed_in_the_black_of_a_shadow_but_a_dark_crack_hides_nothing(
    pixels: dict[str, np.ndarray],
) -> None:
    before = pixels["old.jpg"].copy()
    before[230:, :] = 0
    before[98:103, 50:170] = 0
    after = [finding("c", 56, 260, 120), finding("d", 56, 96, 120)]
    row = compare(pair([finding("a", 50, 100, 120)], after), (pixels | {"old.jpg": before}).__getitem__)
    assert {one["finding"]: one["status"] for one in changes(row)} == {"c": "not seen", "d": "static"}


def gone_file(image: str) -> np.ndarray:
    raise UnreadableImage("truncated")


@pytest.mark.parametrize("why", ["other surface", "known beforehand", "unreadable"])
def test_nothing_is_claimed_about_a_pair_that_cannot_be_registered(pixels: dict[str, np.ndarray], why: str) -> None:
    one = pair([finding("a", 50, 100, 120)], [finding("c", 50, 100, 300)])
    one |= {"other surface": {"image": "blank.jpg"}, "known beforehand": {"reason": "another model"}}.get(why, {})
    row = compare(one, gone_file if why == "unreadable" else pixels.__getitem__)
    assert row["status"] == "unmatched" and row["reason"] and row["homography"] == []
    assert [(found["status"], found["reason"]) for found in changes(row)] == [("unmatched", row["reason"])] * 2


@pytest.mark.parametrize("missing", ["image", "previous_image"])
def test_nothing_is_claimed_where_a_photograph_is_missing(missing: str) -> None:
    found = [finding("a", 50, 100, 120)]
    row = compare(
        pair([], found, previous_image="", reason="no earlier photograph")
        if missing == "previous_image"
        else pair(found, [], image="", reason="no later photograph"),
        gone_file,
    )
    assert row["status"] == "no partner" and [one["status"] for one in changes(row)] == ["not seen"]
