"""Findings of two visits: new, grown, static, gone, and not seen."""

from dataclasses import replace

import numpy as np
import pytest

from crackvae.changes.matching import Change, Trace, match
from crackvae.images.registration import Registration

SHOWN = np.ones((600, 800), bool)
HALF = 0.5 * np.eye(3) + np.diag([0, 0, 0.5])  # the later photograph has half the scale


def crack(name: str, x: float, y: float, length: float, width: float = 3.0, sigma: float = 0.2) -> Trace:
    xs = x + np.arange(length)
    points = np.c_[xs, y + 5 * np.sin(xs / 30)]
    return Trace(name, points, np.full(len(xs), width), length, 0.01 * length, width, sigma)


def compared(before: list[Trace], after: list[Trace], shown: np.ndarray = SHOWN, shift: float = 0.0) -> list[Change]:
    matrix = np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]])
    return match(before, after, Registration(matrix, 0.4, 30, 1.0), shown, SHOWN)


def only(changes: list[Change]) -> Change:
    (change,) = changes
    return change


@pytest.mark.parametrize(
    ("after", "status"),
    [
        (crack("b", 100, 200, 300), "static"),
        (crack("b", 102, 201, 304, 3.3), "static"),
        (crack("b", 100, 200, 345), "grown"),
        (crack("b", 100, 200, 300, 4.2), "grown"),
        (crack("b", 100, 200, 250), "static"),
    ],
)
def test_growth_is_a_difference_beyond_the_uncertainty_of_both_visits(after: Trace, status: str) -> None:
    change = only(compared([crack("a", 100, 200, 300)], [after]))
    assert (change.status, change.after, change.before) == (status, "b", "a")
    assert change.length_px == pytest.approx(after.length_px - 300)


def test_a_crack_without_a_partner_is_new_or_gone() -> None:
    changes = compared([crack("a", 100, 200, 200)], [crack("b", 100, 300, 200)])
    assert {(one.status, one.after, one.before) for one in changes} == {("gone", "", "a"), ("new", "b", "")}


def test_nothing_is_claimed_where_the_other_photograph_does_not_show_the_place() -> None:
    shown = SHOWN.copy()
    shown[:, :400] = False
    assert only(compared([], [crack("b", 150, 200, 200)], shown)).status == "not seen"
    gone = only(compared([crack("a", 500, 200, 200)], [], shift=200))
    assert gone.status == "not seen" and "later photograph shows 50 %" in gone.reason


def test_a_crack_that_one_photograph_shows_in_part_is_compared_in_that_part() -> None:
    shown = SHOWN.copy()
    shown[:, 500:] = False
    change = only(compared([crack("a", 100, 200, 400)], [crack("b", 100, 200, 600)], shown))
    assert change.status == "static" and abs(change.length_px) < 5


def test_pieces_that_join_are_not_growth() -> None:
    pieces = [crack("a1", 100, 200, 150), crack("a2", 262, 200, 150)]
    change = only(compared(pieces, [crack("b", 100, 200, 312)]))
    assert change.status == "static" and change.before in ("a1", "a2")


def test_lengths_and_widths_are_compared_at_one_scale() -> None:
    before = crack("a", 100, 200, 400, 6.0)
    after = replace(crack("b", 50, 100, 200), points_K2=before.points_K2[::2] / 2)
    change = only(match([before], [after], Registration(HALF, 0.4, 30, 1.0), SHOWN, SHOWN))
    assert change.status == "static"
    assert change.length_px == pytest.approx(0) and change.width_px == pytest.approx(0)
