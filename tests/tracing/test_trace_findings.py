"""Tracing on drawn photographs whose cracks and joints are known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from crackvae.images import drawing
from crackvae.tracing import lines
from crackvae.tracing.findings import trace_findings

# Drawing at four times the size makes edges accurate to a quarter of a pixel.
FINE = 4


def drawn(
    lines: list[tuple[np.ndarray, float]], shape: tuple[int, int], blur_px: float = 1.0, noise: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels and crack probability of dark lines, each (x, y) points and a width [px]."""
    canvas = Image.new("L", (shape[1] * FINE, shape[0] * FINE))
    for points_N2, width in lines:
        at = [((x + 0.5) * FINE, (y + 0.5) * FINE) for x, y in points_N2]
        ImageDraw.Draw(canvas).line(at, fill=255, width=round(width * FINE), joint="curve")
    fine = np.asarray(canvas, np.float32) / 255
    share = fine.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))
    soft = ndimage.gaussian_filter(share, blur_px)
    grey = 160 - 90 * soft + noise * np.random.default_rng(0).standard_normal(shape)
    return grey.clip(0, 255).round().astype(np.uint8), share


def wandering(start: tuple[float, float], end: tuple[float, float], amplitude: float, seed: int) -> np.ndarray:
    """Points (x, y) about 2 px apart of a line that wanders off the straight one."""
    n = int(np.hypot(end[0] - start[0], end[1] - start[1]) / 2)
    walk = ndimage.gaussian_filter1d(np.random.default_rng(seed).standard_normal((n, 2)).cumsum(axis=0), 6, axis=0)
    walk -= np.linspace(walk[0], walk[-1], n)
    return np.linspace(start, end, n) + amplitude * walk


def traced(pixels_HW: np.ndarray, share_HW: np.ndarray) -> list[dict[str, Any]]:
    return trace_findings(pixels_HW, (255 * share_HW).astype(np.uint8))


def length_of(points_N2: np.ndarray) -> float:
    return float(np.hypot(*np.diff(points_N2, axis=0).T).sum())


@pytest.mark.parametrize(("width", "blur_px"), [(4, 0.7), (5, 1.5), (8, 2.0), (14, 1.0)])
def test_a_crack_is_one_finding_with_its_length_and_width(width: float, blur_px: float) -> None:
    crack = wandering((60, 80), (700, 420), 1.5, seed=1)
    (found,) = traced(*drawn([(crack, width)], (500, 800), blur_px))
    assert found["kind"] == "crack"
    assert found["length_px"] == pytest.approx(length_of(crack), rel=0.05)
    assert abs(found["width_mean_px"] - width) < 0.5
    assert len(found["x_px"]) == len(found["y_px"]) == len(found["widths_px"])


@pytest.mark.parametrize("seed", range(4))
def test_the_length_of_a_narrow_crack_has_the_bends_that_blur_hides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crack = ndimage.gaussian_filter1d(
        drawing.wander(rng, np.array([60.0, 80.0]), np.array([700.0, 420.0])), 0.5, axis=0
    )
    (found,) = traced(*drawn([(crack, 3)], (500, 800), blur_px=2.0))
    assert found["length_px"] == pytest.approx(length_of(crack), rel=0.04)
    of_trace_px = length_of(np.stack([found["x_px"], found["y_px"]], axis=1))
    assert abs(found["length_px"] - length_of(crack)) < abs(of_trace_px - length_of(crack))


def test_a_crack_that_runs_into_a_joint_ends_where_the_joint_goes_on() -> None:
    crack = wandering((250, 60), (402, 460), 1.5, seed=3)
    joint = np.array([(402.0, 455.0), (408.0, 1099.0)])  # what the map shows of it begins where the crack ends
    found = traced(*drawn([(crack, 5), (joint, 5)], (1100, 800)))
    assert [one["kind"] for one in found] == ["joint", "crack"]
    assert found[0]["length_px"] == pytest.approx(644, rel=0.1)
    assert found[1]["length_px"] == pytest.approx(length_of(crack), rel=0.1)


@given(st.integers(2, 300), st.floats(0, 3), st.floats(0.5, 40), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_length_stays_near_that_of_its_trace(n: int, turn: float, width_px: float, seed: int) -> None:
    headings_K = np.random.default_rng(seed).normal(0, turn / 10, n).cumsum()  # from straight to loops
    points_K2 = np.stack([np.sin(headings_K), np.cos(headings_K)], axis=1).cumsum(axis=0)
    assert 0.75 * (n - 1) < lines.length_of(points_K2, width_px) < 1.3 * n


def test_a_joint_that_a_crack_crosses_stays_apart_from_it() -> None:
    joint, crack = np.array([(0.0, 200.0), (799.0, 215.0)]), wandering((380, 20), (430, 480), 1.5, seed=2)
    found = traced(*drawn([(joint, 6), (crack, 4)], (500, 800)))
    assert [one["kind"] for one in found] == ["joint", "crack"]
    assert found[0]["borders"] == 2 and found[0]["straightness"] > 0.99
    assert found[1]["length_px"] == pytest.approx(length_of(crack), rel=0.05)


def test_a_crack_that_fades_for_a_stretch_is_one_finding_and_two_neighbours_are_two() -> None:
    crack = wandering((60, 80), (700, 120), 1.5, seed=3)
    other = wandering((60, 300), (700, 320), 1.5, seed=4)
    grey, probability = drawn([(crack, 5), (other, 5)], (400, 800))
    probability[:, 300:315] = 0
    assert len(traced(grey, probability)) == 2


def test_the_ends_of_a_crack_are_found_where_its_map_fades_and_where_it_reaches_too_far() -> None:
    crack = wandering((60, 80), (400, 220), 1.5, seed=6)
    for blur_px in (0.7, 2.0):
        grey, share = drawn([(crack, 6)], (300, 500), blur_px)
        faded = share.copy()
        faded[:, :90] = faded[:, 350:] = 0
        for map_HW in (faded, ndimage.grey_dilation(share, 15)):
            (found,) = traced(grey, map_HW)
            assert found["length_px"] == pytest.approx(length_of(crack), abs=8)


def test_a_joint_is_followed_to_the_borders_from_the_piece_that_the_map_shows() -> None:
    grey, share = drawn([(np.array([(0.0, 200.0), (799.0, 215.0)]), 6)], (400, 800))
    share[:, :350] = share[:, 420:] = 0
    (found,) = traced(grey, share)
    assert found["kind"] == "joint" and found["borders"] == 2
    assert found["length_px"] == pytest.approx(800, rel=0.01)


@pytest.mark.parametrize(("seed", "turned"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_crack_that_leaves_the_photograph_ends_at_its_borders(seed: int, turned: bool) -> None:
    start, end = np.random.default_rng(seed).uniform(60, 340, 2)
    crack = wandering((-60, start), (460, end), 1.5, seed)
    inside = crack[((crack >= -0.5) & (crack <= 399.5)).all(axis=1)]
    (found,) = traced(*drawn([(crack[:, ::-1] if turned else crack, 4)], (400, 400)))
    trace = np.stack([found["x_px"], found["y_px"]])
    assert np.nanmin(trace) >= 0 and np.nanmax(trace) <= 399
    assert (found["right_px"] - found["left_px"], found["bottom_px"] - found["top_px"])[turned] >= 394
    assert found["length_px"] == pytest.approx(length_of(inside), abs=8)


@pytest.mark.parametrize("seed", range(3))
def test_a_crack_that_leaves_the_photograph_at_an_angle_is_not_wider_there(seed: int) -> None:
    crack = wandering((200 + 30 * seed, 40), (430, 380), 1.0, seed)
    (found,) = traced(*drawn([(crack, 4)], (400, 400)))
    assert abs(found["width_max_px"] - 4) < 0.6 and abs(found["width_mean_px"] - 4) < 0.5


def test_a_crack_that_runs_along_a_joint_for_a_stretch_is_one_finding_beside_it() -> None:
    joint = np.array([(0.0, 250.0), (799.0, 250.0)])
    crack = np.array([(150.0, 90.0), (230, 150), (340, 246), (390, 254), (460, 330), (610, 410)])
    found = traced(*drawn([(joint, 5), (crack, 5)], (500, 800)))
    assert [one["kind"] for one in found] == ["joint", "crack"]
    assert found[1]["length_px"] == pytest.approx(length_of(crack), rel=0.05)


def test_two_short_spurs_of_a_rough_edge_do_not_count_the_crack_between_them_twice() -> None:
    crack = wandering((60, 80), (500, 180), 1.5, seed=8)
    spurs = [np.stack([crack[at], crack[at] + (step, -14)]) for at, step in ((90, -8), (120, 8))]
    (found,) = traced(*drawn([(crack, 5), *((spur, 4) for spur in spurs)], (300, 600)))
    assert length_of(crack) * 0.97 < found["length_px"] < length_of(crack) * 1.03 + sum(map(length_of, spurs))


def test_the_other_side_of_an_open_crack_that_is_broken_out_does_not_count_again() -> None:
    crack = wandering((60, 120), (900, 300), 1.5, seed=8)
    aside = 30 * np.sin(np.linspace(0, np.pi, 80))[:, None] * np.array([-0.2, 1.0])
    sides = [crack[at : at + 80] + sign * aside for at, sign in ((40, 1), (160, -1), (280, 1))]
    (found,) = traced(*drawn([(crack, 18), *((side, 12) for side in sides)], (450, 1000)))
    assert found["length_px"] == pytest.approx(length_of(crack), rel=0.08)


def test_a_branch_that_parts_from_an_open_crack_counts() -> None:
    crack = wandering((60, 120), (900, 300), 1.5, seed=8)
    branch = wandering((float(crack[200, 0]), float(crack[200, 1])), (800, 520), 1.5, seed=3)
    (found,) = traced(*drawn([(crack, 18), (branch, 8)], (600, 1000)))
    assert found["length_px"] == pytest.approx(length_of(crack) + length_of(branch), rel=0.06)


def test_a_spot_beside_a_crack_and_a_map_without_a_line_add_nothing() -> None:
    crack = wandering((60, 80), (400, 120), 1.5, seed=8)
    grey, share = drawn([(crack, 6), (np.array([(430.0, 125.0), (436.0, 125.0)]), 8)], (300, 500))
    share[100:160, 200:204] = 1
    (found,) = traced(grey, share)
    assert found["length_px"] == pytest.approx(length_of(crack), rel=0.05)


def test_an_image_without_a_line_has_no_finding() -> None:
    grey, probability = drawn([], (300, 300))
    assert traced(grey, probability) == []
    probability[100:120, 100:120] = 1
    assert traced(grey, probability) == []


@pytest.mark.parametrize("bend_px", [0, 12, 30])
@pytest.mark.parametrize("noise", [1.0, 8.0])
def test_a_joint_stays_one_where_a_lens_bends_it(bend_px: float, noise: float) -> None:
    x = np.arange(0, 800.0, 4)
    joint = np.stack([x, 200 + bend_px * ((x - 400) / 400) ** 2], axis=1)
    (found,) = traced(*drawn([(joint, 5)], (400, 800), noise=noise))
    assert found["kind"] == "joint" and found["borders"] == 2


def test_a_saw_cut_with_broken_edges_is_a_joint_without_their_spurs() -> None:
    rng = np.random.default_rng(9)
    cut = [(np.array([(0.0, 150.0), (999.0, 260.0)]), 16.0)]
    for x in rng.uniform(50, 950, 40):
        y, aside = 150 + 0.11 * x, rng.choice([-1, 1]) * rng.uniform(8, 22)
        cut.append((np.array([(x, y), (x + rng.uniform(-8, 8), y + aside)]), 9.0))
    (found,) = traced(*drawn(cut, (420, 1000)))
    assert found["kind"] == "joint" and found["length_px"] == pytest.approx(1005, rel=0.06)


def test_a_short_straight_line_is_unclear() -> None:
    (found,) = traced(*drawn([(np.array([(100.0, 100.0), (180.0, 110.0)]), 5)], (300, 400)))
    assert found["kind"] == "unclear"


@given(seed=st.integers(0, 10**6), width=st.floats(3, 7), blur_px=st.floats(0.5, 2.0))
@settings(max_examples=10, deadline=None)
def test_any_crack_is_one_finding_in_place(seed: int, width: float, blur_px: float) -> None:
    crack = wandering((60, 80), (520, 320), 2.0, seed)
    (found,) = traced(*drawn([(crack, width)], (420, 620), blur_px))
    trace_N2 = np.stack([found["x_px"], found["y_px"]], axis=1)
    off_N = np.hypot(*(trace_N2[:, None] - crack[None]).transpose(2, 0, 1)).min(axis=1)
    assert np.median(off_N) < 2 and found["kind"] == "crack"
    assert found["length_px"] == pytest.approx(length_of(crack), rel=0.1)
    assert found["left_px"] == int(trace_N2[:, 0].min()) and found["top_px"] == int(trace_N2[:, 1].min())


def test_a_crop_gives_the_findings_of_the_photograph_in_its_coordinates() -> None:
    crack = wandering((260, 280), (520, 420), 1.5, seed=7)
    grey, share = drawn([(crack, 5)], (500, 700))
    whole = traced(grey, share)
    (part,) = trace_findings(grey, (255 * share[100:, 200:]).astype(np.uint8), (100, 200))
    assert (part["left_px"], part["top_px"]) == (whole[0]["left_px"], whole[0]["top_px"])
    assert part["x_px"] == pytest.approx(whole[0]["x_px"], abs=1e-3)


def test_a_crack_that_meets_a_joint_at_a_small_angle_does_not_take_its_half() -> None:
    joint = np.array([(0.0, 200.0), (999.0, 200.0)])
    crack = np.array([(300.0, 40.0), (330, 130), (420, 185), (500, 199), (580, 212), (650, 260), (660, 350)])
    found = traced(*drawn([(joint, 6), (crack, 6)], (400, 1000)))
    assert found[0]["kind"] == "joint" and found[0]["length_px"] == pytest.approx(1000, rel=0.02)
    assert {one["kind"] for one in found[1:]} == {"crack"}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_line_of_a_few_points_is_its_own_parabola(n: int) -> None:
    points = np.array([[3.0, 4.0], [5.0, 9.0], [6.0, 11.0]])[:n]
    assert lines._parabola(points) == pytest.approx(points)
