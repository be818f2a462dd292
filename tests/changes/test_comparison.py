"""The rows of the table of changes."""

import cv2
import numpy as np
import pytest

from crackvae.changes.comparison import CHANGES_SCHEMA, compare
from crackvae.images import synthetic

SHIFT = np.array([[1, 0, 6], [0, 1, -4]], float)


def finding(name: str, x: float, y: float, length: int, model: str = "m") -> dict[str, object]:
    xs = [*(x + np.arange(length)), float("nan")]
    row = {"finding": name, "model": model, "x_px": xs, "y_px": [y] * len(xs), "widths_px": [3.0] * len(xs)}
    return row | {"length_px": length, "length_sigma_px": 2.0, "width_mean_px": 3.0, "width_sigma_px": 0.2}


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    before = synthetic.draw_concrete(np.random.default_rng(3), 300, 400)[..., 0]
    return before, cv2.warpAffine(before, SHIFT, (400, 300), borderMode=cv2.BORDER_REFLECT)


def test_each_finding_has_a_row_and_its_history_goes_back_to_the_first_visit(
    pixels: tuple[np.ndarray, np.ndarray],
) -> None:
    before = [finding("a", 50, 100, 120), finding("b", 50, 200, 120)]
    after = [finding("c", 56, 96, 180), finding("d", 56, 50, 120)]
    table = compare(before, after, ("old.jpg", "now.jpg"), pixels, {"a": "first"})
    assert table.schema == CHANGES_SCHEMA
    rows = {row["status"]: row for row in table.to_pylist()}
    assert {name: (row["finding"], row["previous"], row["history"]) for name, row in rows.items()} == {
        "grown": ("c", "a", "first"),
        "gone": ("", "b", "b"),
        "new": ("d", "", "d"),
    }
    grown = rows["grown"]
    assert grown["length_change_low_px"] < grown["length_change_px"] == pytest.approx(60, abs=1)
    assert grown["image"] == "now.jpg" and grown["residual_px"] < 0.5


def test_nothing_is_claimed_in_the_black_of_a_shadow_but_a_dark_crack_hides_nothing(
    pixels: tuple[np.ndarray, np.ndarray],
) -> None:
    before = pixels[0].copy()
    before[230:, :] = 0
    before[98:103, 50:170] = 0
    after = [finding("c", 56, 260, 120), finding("d", 56, 96, 120)]
    rows = compare([finding("a", 50, 100, 120)], after, ("old.jpg", "now.jpg"), (before, pixels[1]), {}).to_pylist()
    assert {row["finding"]: row["status"] for row in rows} == {"c": "not seen", "d": "static"}


def test_nothing_is_claimed_about_pairs_that_differ_in_model_or_surface(pixels: tuple[np.ndarray, np.ndarray]) -> None:
    before, other = [finding("a", 50, 100, 120)], np.full_like(pixels[1], 128)
    for after, shown in (
        ([finding("c", 50, 100, 300, "n")], pixels),
        ([finding("c", 50, 100, 300)], (pixels[0], other)),
    ):
        rows = compare(before, after, ("old.jpg", "now.jpg"), shown, {}).to_pylist()
        assert [row["status"] for row in rows] == ["unmatched"] * 2 and all(row["reason"] for row in rows)
