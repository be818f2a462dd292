"""Measured length and width of cracks of known size, drawn as polygons."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from crackvae.reports.crack_size import crack_size, touching, trace

FINE = 4  # subpixels per pixel


def drawn_line(angle_deg: float, width_px: float, length_px: float, curvature: float = 0.0) -> np.ndarray:
    """Coverage of each pixel by an arc of known length and width, float (400, 400)."""
    along = np.linspace(-0.5, 0.5, 200) * length_px
    bend = along * curvature
    xs, ys = (along, 0 * along) if not curvature else (np.sin(bend) / curvature, (1 - np.cos(bend)) / curvature)
    turn = np.deg2rad(angle_deg)
    x = (xs * np.cos(turn) - ys * np.sin(turn) + 200.3) * FINE
    y = (xs * np.sin(turn) + ys * np.cos(turn) + 200.3) * FINE
    step = np.hypot(np.gradient(x), np.gradient(y))
    across_x, across_y = -np.gradient(y) / step * width_px * FINE / 2, np.gradient(x) / step * width_px * FINE / 2
    image = Image.new("L", (400 * FINE, 400 * FINE))
    outline = zip(np.r_[x + across_x, (x - across_x)[::-1]], np.r_[y + across_y, (y - across_y)[::-1]], strict=True)
    ImageDraw.Draw(image).polygon(list(outline), fill=255)
    return np.asarray(image.resize((400, 400), Image.Resampling.BOX)) / 255.0


@pytest.mark.parametrize("curvature", [0.0, 1 / 150, 1 / 60])
@pytest.mark.parametrize("angle_deg", [0, 12, 22.5, 45, 60, 90, 133, 170])
def test_a_crack_of_3_px_by_200_px_is_measured_at_any_angle_and_curvature(angle_deg: float, curvature: float) -> None:
    covered_HW = drawn_line(angle_deg, 3, 200, curvature)
    rough_HW = covered_HW * 0.4 + np.random.default_rng(0).normal(0, 0.02, covered_HW.shape)
    for size in (crack_size(covered_HW >= 0.5), crack_size(trace(np.abs(rough_HW)))):
        assert size.length_px == pytest.approx(200, rel=0.1) and size.pieces == 1
        assert size.mean_width_px == pytest.approx(3, abs=1) and size.max_width_px == pytest.approx(3, abs=1)


@pytest.mark.parametrize("width_px", [1.5, 2, 4, 6, 10])
def test_other_widths_are_accurate_to_one_pixel(width_px: float) -> None:
    for angle_deg in (0, 30, 77):
        size = crack_size(trace(drawn_line(angle_deg, width_px, 200, 1 / 150) * 0.4))
        assert size.mean_width_px == pytest.approx(width_px, abs=1)
        assert size.max_width_px == pytest.approx(width_px, abs=1.5)
        assert size.length_px == pytest.approx(200, rel=0.1)


def test_two_cracks_are_two_pieces_and_their_lengths_add_up() -> None:
    both = drawn_line(0, 3, 200)
    size = crack_size((both >= 0.5) | (np.roll(both, 60, axis=0) >= 0.5))
    assert size.pieces == 2 and size.length_px == pytest.approx(400, rel=0.1)


def test_cracks_that_touch_a_region_are_kept_completely_and_others_are_removed() -> None:
    line_HW = drawn_line(0, 3, 200) >= 0.5
    other_HW = np.roll(line_HW, 60, axis=0)
    region_HW = np.zeros(line_HW.shape, bool)
    region_HW[180:220, 110:130] = True
    assert np.array_equal(touching(line_HW | other_HW, region_HW), line_HW)


def test_the_length_of_a_fork_includes_all_branches() -> None:
    crossed = (drawn_line(0, 3, 200) >= 0.5) | (drawn_line(90, 3, 200) >= 0.5)
    assert crack_size(crossed).length_px == pytest.approx(400, rel=0.1)


def test_round_holes_and_grain_are_not_traced() -> None:
    y, x = np.mgrid[:300, :300]
    holes_HW = np.hypot(y - 80, x - 90) < 15
    residual_HW = np.random.default_rng(1).normal(0, 0.02, (300, 300)) + 0.5 * holes_HW
    assert not trace(np.abs(residual_HW)).any()


def test_an_empty_map_measures_zero() -> None:
    size = crack_size(np.zeros((50, 50), bool))
    assert (size.length_px, size.mean_width_px, size.max_width_px, size.pieces) == (0, 0, 0, 0)
    assert not trace(np.zeros((50, 50), np.float32)).any()


def test_a_crack_across_the_cells_of_a_large_map_is_measured_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rough_HW = drawn_line(30, 4, 350, 1 / 200) * 0.4 + np.random.default_rng(3).normal(0, 0.02, (400, 400))
    whole = crack_size(trace(np.abs(rough_HW)))
    monkeypatch.setattr("crackvae.reports.crack_size.CELL_PX", 48)
    monkeypatch.setattr("crackvae.reports.crack_size.MARGIN_PX", 24)
    assert vars(crack_size(trace(np.abs(rough_HW)))) == pytest.approx(vars(whole), rel=0.005)
