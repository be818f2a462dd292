"""Registration of drawn photographs under a homography that is known."""

from functools import cache

import cv2
import numpy as np
import pytest

from crackvae.images import registration, synthetic


@cache
def surface(seed: int) -> np.ndarray:
    return synthetic.draw_concrete(np.random.default_rng(seed), 420, 560)[..., 0]


def view(scale: float, degrees: float, tilt: float, size: tuple[int, int] = (560, 420)) -> np.ndarray:
    angle, (width, height) = np.deg2rad(degrees), size
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([width - 1, height - 1]) / 2
    return np.vstack([np.c_[turn, centre - turn @ centre], [tilt, -tilt, 1]])


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 3.0), (0.6, -20.0), (1.8, 70.0)])
def test_a_view_with_another_scale_rotation_exposure_noise_and_shadow_is_registered(
    scale: float, degrees: float
) -> None:
    before, truth = surface(1), view(scale, degrees, 2e-5)
    after = cv2.warpPerspective(before, truth, (560, 420), borderValue=90).astype(float)
    after[:, :200] *= 0.6
    after = (after * 0.9 + np.random.default_rng(0).normal(0, 2, after.shape)).clip(0, 255).astype(np.uint8)
    found = registration.register(before, after)
    assert found.is_matched, found.reason
    points = np.array([[200.0, 150.0], [350.0, 150.0], [280.0, 210.0], [200.0, 270.0], [350.0, 270.0]])
    apart = registration.transformed(found.matrix_33, points) - registration.transformed(truth, points)
    assert np.hypot(*apart.T).max() < 1.0 and found.residual_px < 0.5 and found.n_held_out >= 5


def test_photographs_of_different_surfaces_and_without_texture_are_unmatched_with_a_reason() -> None:
    assert registration.register(surface(1), surface(2)).reason == "no common features"
    blank = np.full((300, 300), 128, np.uint8)
    assert "too few features" in registration.register(surface(1), blank).reason


def test_a_smooth_surface_seen_aslant_is_registered_by_the_few_places_that_are_found_again() -> None:
    truth = view(0.95, 4.0, 6e-5, (1120, 840))
    before = cv2.GaussianBlur(cv2.resize(surface(1), (1120, 840)), (0, 0), 3).astype(float)
    noise = np.random.default_rng(0).normal(0, 6, (2, *before.shape))
    after = (cv2.warpPerspective(before, truth, (1120, 840), borderMode=cv2.BORDER_REFLECT) + noise[0]).clip(0, 255)
    found = registration.register((before + noise[1]).clip(0, 255).astype(np.uint8), after.astype(np.uint8))
    assert found.is_matched, found.reason
    points = np.array([[250.0, 200.0], [850.0, 200.0], [250.0, 650.0], [850.0, 650.0]])
    apart = registration.transformed(found.matrix_33, points) - registration.transformed(truth, points)
    assert found.n_held_out < 20 and np.hypot(*apart.T).max() < 1.5


def test_a_residual_above_the_limit_is_unmatched() -> None:
    before = surface(1)
    found = registration.register(before, np.roll(before, 7, 1), limit_px=-1.0)
    assert not found.is_matched and "exceeds the limit" in found.reason
    assert np.isnan(found.residual_px) and np.array_equal(found.matrix_33, np.eye(3))


def test_the_scale_of_a_homography_is_that_of_small_distances() -> None:
    matrix, point = view(0.8, 30, 1e-4), np.array([[100.0, 200.0]])
    step = registration.transformed(matrix, point + np.diag([1e-3, 1e-3])) - registration.transformed(matrix, point)
    assert registration.scale_at(matrix, point)[0] == pytest.approx(np.sqrt(abs(np.linalg.det(step / 1e-3))), rel=1e-4)
