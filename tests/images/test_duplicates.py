"""S = 32 side of a thumbnail, N images; H, W rows and columns of an image."""

import io
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from crackvae.errors import UnreadableImage
from crackvae.images.manifest import duplicates
from crackvae.images.manifest.duplicates import (
    COARSE_PX,
    MAX_DIFFERENCE,
    THUMB_PX,
    fingerprint,
    invariant_hash,
    orientations,
    same_picture,
)
from crackvae.images.synthetic import draw_image

N_DRAWN = 200


def encoded(pixels: np.ndarray, quality: int = 95) -> bytes:
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def thumb(pixels: np.ndarray, quality: int = 95) -> np.ndarray:
    return fingerprint(encoded(pixels, quality)).thumb_SS


def eight(pixels_HW3: np.ndarray) -> list[np.ndarray]:
    """All orientations, in the image's own pixels."""
    turned = [np.rot90(pixels_HW3, turns) for turns in range(4)]
    return [np.ascontiguousarray(one) for one in [*turned, *(one[:, ::-1] for one in turned)]]


def resized(pixels_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """200 images of 227 px, half of them cracked."""
    return [draw_image(1, number, is_crack=number % 2 == 0)[0] for number in range(N_DRAWN)]


@pytest.fixture(scope="module")
def thumbs_NSS(drawn) -> np.ndarray:
    return np.stack([thumb(image) for image in drawn])


# -------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_knows_the_file_its_size_and_its_thumbnail():
    data = encoded(draw_image(0, 0, False)[0][:100, :150])
    found = fingerprint(data)
    assert (found.width, found.height) == (150, 100)
    assert found.thumb_SS.shape == (32, 32) and found.thumb_SS.dtype == np.uint8
    assert len(found.sha256) == 64 and found.sha256 != fingerprint(data + b"\0").sha256


def test_only_the_cores_of_this_process_read_images(monkeypatch):
    seen = set()

    def one(image):
        seen.add(threading.get_ident())
        time.sleep(0.001)  # so that another thread would take the next image
        return image

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(duplicates.fileio, "read_image", one)
    monkeypatch.setattr(duplicates, "fingerprint", lambda data, page: len(data))
    names = [f"{number}.png" for number in range(20)]
    found, left_out = duplicates.fingerprints_of(pa.table({"image": names, "error": [""] * 20}), quiet=True)
    assert not left_out and len(found) == 20 and len(seen) == 1


def test_bytes_that_are_no_image_have_no_fingerprint():
    with pytest.raises(UnreadableImage):
        fingerprint(b"not a picture")


# ------------------------------------------------------------------------------------------------ the same picture


@pytest.mark.slow
def test_different_drawings_are_different_pictures(thumbs_NSS):
    assert np.array_equal(same_picture(thumbs_NSS), np.arange(N_DRAWN))


def test_copies_are_found_in_all_eight_orientations_among_other_pictures(drawn, thumbs_NSS):
    turned = [thumb(one, 90) for image in drawn[:20] for one in eight(image)]
    numbers = same_picture(np.concatenate([thumbs_NSS, np.stack(turned)]))
    assert np.array_equal(numbers[N_DRAWN:], np.repeat(np.arange(20), 8))


@pytest.mark.parametrize("quality", [60, 75, 85, 95])
def test_re_encoded_copies_are_found(drawn, thumbs_NSS, quality):
    copies = np.stack([thumb(image, quality) for image in drawn])
    numbers = same_picture(np.concatenate([thumbs_NSS, copies]))
    assert np.array_equal(numbers, np.tile(np.arange(N_DRAWN), 2))


@pytest.mark.parametrize("side_px", [64, 113, 200, 454])
def test_resized_copies_are_found(drawn, thumbs_NSS, side_px):
    copies = np.stack([thumb(resized(image, side_px, side_px), 90) for image in drawn[:60]])
    assert np.array_equal(same_picture(np.concatenate([thumbs_NSS, copies]))[N_DRAWN:], np.arange(60))


def test_a_long_image_is_found_turned_on_its_side(drawn):
    long = [resized(image[:150], 300, 200) for image in drawn[:20]]
    turned = [np.ascontiguousarray(np.rot90(image)[:, ::-1]) for image in long]
    numbers = same_picture(np.stack([thumb(image) for image in long + turned]))
    assert np.array_equal(numbers, np.tile(np.arange(20), 2))


def test_the_same_surface_with_a_crack_is_another_picture(drawn):
    sound = drawn[1]
    cracked = sound.copy()
    cracked[100:108] //= 4
    assert np.array_equal(same_picture(np.stack([thumb(sound), thumb(cracked)])), [0, 1])


def test_flat_images_are_one_picture_only_where_their_grey_is_equal():
    flat_NSS = np.stack([np.full((THUMB_PX, THUMB_PX), grey, np.uint8) for grey in (128, 129, 128, 0)])
    assert np.array_equal(same_picture(flat_NSS), [0, 1, 0, 3])


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_image_without_a_surface_is_no_image_to_learn_from(grey):
    with pytest.raises(UnreadableImage, match="no surface"):
        thumb(np.full((64, 64, 3), grey, np.uint8))


def test_a_flat_image_is_no_copy_of_a_nearly_flat_one():
    flat_SS = np.full((THUMB_PX, THUMB_PX), 128, np.uint8)
    nearly_SS = flat_SS.copy()
    nearly_SS[3, 5] = 129
    assert np.array_equal(same_picture(np.stack([flat_SS, nearly_SS])), [0, 1])


def test_smooth_walls_of_equal_brightness_are_different_pictures():
    x_S = np.linspace(-1, 1, THUMB_PX)
    slope_SS, vault_SS = np.tile(2 * x_S, (THUMB_PX, 1)), 2 * (np.abs(x_S)[:, None] + np.abs(x_S)) - 2
    smooth = np.stack([np.round(128 + one_SS).astype(np.uint8) for one_SS in (slope_SS, vault_SS)])
    assert apart(smooth[0], smooth[1]) < MAX_DIFFERENCE
    assert same_picture(smooth).tolist() == [0, 1]


def test_a_picture_is_numbered_by_the_first_of_its_images_in_any_order(thumbs_NSS):
    order = np.random.default_rng(0).permutation(np.tile(np.arange(10), 3))
    first = [int(np.flatnonzero(order == picture)[0]) for picture in order]
    assert same_picture(thumbs_NSS[order]).tolist() == first


def test_a_chain_of_copies_is_one_picture(drawn):
    numbers = same_picture(np.stack([thumb(drawn[0], quality) for quality in (95, 60, 80, 70)]))
    assert numbers.tolist() == [0, 0, 0, 0]


def test_no_images_are_no_pictures():
    assert same_picture(np.empty((0, THUMB_PX, THUMB_PX), np.uint8)).shape == (0,)


def test_many_pairs_are_compared_in_chunks_with_the_same_answer(thumbs_NSS, monkeypatch):
    thumbs_NSS = np.concatenate([thumbs_NSS[:30], thumbs_NSS[:30, ::-1], np.rot90(thumbs_NSS[:30], axes=(1, 2))])
    whole = same_picture(thumbs_NSS)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 7)
    assert np.array_equal(same_picture(thumbs_NSS), whole) and len(set(whole)) == 30


# ------------------------------------------------------------------------------------------------------- the hash

thumbnails = arrays(np.uint8, (2, THUMB_PX, THUMB_PX), elements=st.integers(0, 255), fill=st.integers(0, 255))


def apart(one_SS: np.ndarray, other_SS: np.ndarray) -> float:
    """Root mean square difference in the best orientation."""
    turned = [one[0].astype(float) for one in orientations(other_SS[None])]
    return min(float(np.sqrt(np.square(one_SS - one).mean())) for one in turned)


@settings(derandomize=True, deadline=None)
@given(thumbnails)
def test_two_hashes_are_never_further_apart_than_their_thumbnails(thumbs_2SS):
    one_hash, other_hash = invariant_hash(thumbs_2SS).astype(float)
    assert np.linalg.norm(one_hash - other_hash) <= COARSE_PX * apart(thumbs_2SS[0], thumbs_2SS[1]) + 1e-3


@settings(derandomize=True, deadline=None)
@given(thumbnails)
def test_no_flip_or_quarter_turn_changes_a_hash(thumbs_2SS):
    hashed = invariant_hash(thumbs_2SS)
    assert hashed.shape == (2, COARSE_PX**2)
    for turned in orientations(thumbs_2SS):
        assert np.array_equal(invariant_hash(np.ascontiguousarray(turned)), hashed)


def test_the_hashes_of_neighbours_bound_their_distance_too(thumbs_NSS):
    hashes = invariant_hash(thumbs_NSS).astype(float)
    for one in range(0, 40, 2):
        assert np.linalg.norm(hashes[one] - hashes[one + 1]) <= COARSE_PX * apart(thumbs_NSS[one], thumbs_NSS[one + 1])


def test_the_orientations_of_a_thumbnail_are_eight(thumbs_NSS):
    turned = orientations(thumbs_NSS[:1])
    assert len({one.tobytes() for one in turned}) == len(turned) == 8
