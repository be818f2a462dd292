"""Widths of drawn lines whose width and blur are known."""

import numpy as np
import pytest
from scipy import ndimage

from crackvae.tracing.widths import sections, widths_of

HEIGHT, LENGTH = 80, 400
FINE = 8  # subpixels


def drawn(
    width_px: float | np.ndarray, blur_px: float, depth: float = 40, noise: float = 2, length: int = LENGTH
) -> tuple[np.ndarray, np.ndarray]:
    """A wandering dark line on an even surface, uint8 (H, W), and its trace (K, 2)."""
    along = np.arange(length)
    middle = HEIGHT / 2 + 3 * np.sin(along / 50)
    fine = (np.arange(HEIGHT * FINE) + 0.5) / FINE - 0.5
    covered = (np.abs(fine[:, None] - middle) < width_px / 2).reshape(HEIGHT, FINE, length).mean(axis=1)
    rng = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(150 - depth * covered, blur_px) + rng.normal(0, noise, (HEIGHT, length))
    return pixels.round().astype(np.uint8), np.stack([middle, along], axis=1)[5:-5]


def measured(*widths_px: float, blur_px: float) -> list[tuple[float, float]]:
    """Mean widths with their standard uncertainties of lines in one photograph [px]."""
    lines = [sections(*drawn(width_px, blur_px), width_px + 2) for width_px in widths_px]
    return [(one.mean_px, one.mean_sigma_px) for one in widths_of(lines)]


@pytest.mark.parametrize("blur_px", [0.5, 1.0, 1.8, 2.5])
@pytest.mark.parametrize("width_px", [3.0, 5.0, 10.0])
def test_a_line_beside_a_wide_one_has_its_width_under_any_blur(width_px: float, blur_px: float) -> None:
    (mean_px, sigma_px), (wide_px, _) = measured(width_px, 16, blur_px=blur_px)
    assert mean_px == pytest.approx(width_px, abs=2 * sigma_px)
    assert sigma_px < 0.35 or width_px < 1.5 * blur_px
    assert wide_px == pytest.approx(16, abs=0.3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rough_edges_do_not_make_a_line_wide_somewhere(seed: int) -> None:
    width_C = 10 * (1 + 0.12 * np.random.default_rng(seed).standard_normal(LENGTH // 4)).repeat(4)
    (found,) = widths_of([sections(*drawn(width_C, 1.0, noise=6), 12)])
    assert found.max_px == pytest.approx(10, abs=0.4)


@pytest.mark.parametrize("width_px", [4, 6, 10])
def test_the_largest_width_is_that_of_the_widest_place(width_px: float) -> None:
    width_C = width_px + 3 * np.exp(-(((np.arange(LENGTH) - 250) / 40) ** 2))
    (found,) = widths_of([sections(*drawn(width_C, 1.0, noise=8), width_px + 2)])
    assert found.max_px == pytest.approx(width_px + 3, abs=min(0.6, 1.645 * found.max_sigma_px))


def test_a_line_has_one_width_from_whichever_end_it_is_read() -> None:
    (sharp_HW, trace_K2), (soft_HW, _) = (drawn(2.0, blur_px, length=778) for blur_px in (0.8, 1.6))
    pixels_HW = np.where((np.arange(778) - 5) // 96 % 2, soft_HW, sharp_HW)  # each part of the line is one or the other
    forth, back = (widths_of([sections(pixels_HW, one_K2, 4)])[0] for one_K2 in (trace_K2, trace_K2[::-1]))
    assert back.mean_px == pytest.approx(forth.mean_px, abs=0.1)


def test_a_narrow_line_alone_is_less_certain_than_beside_a_wide_one() -> None:
    [(mean_px, alone_px)] = measured(2.5, blur_px=2.0)
    (_, beside_px), _ = measured(2.5, 16, blur_px=2.0)
    assert alone_px > 1.2 * beside_px
    assert mean_px == pytest.approx(2.5, abs=2 * alone_px)


def test_a_part_of_a_line_that_another_line_crosses_does_not_change_the_blur() -> None:
    pixels, points = drawn(4, 1.5)
    crossed = pixels.copy()
    crossed[:, 150:190] -= 40
    before, after = (widths_of([sections(one, points, 6)])[0].mean_px for one in (pixels, crossed))
    assert after == pytest.approx(before, abs=0.4)


def test_an_even_surface_has_no_width() -> None:
    pixels, points = drawn(4, 1.0, depth=0)
    (widths,) = widths_of([sections(pixels, points, 6)])
    assert np.isnan(widths.mean_px)
    assert np.isnan(widths.width_C).all()
