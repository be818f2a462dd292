"""Shape letters: H, W rows and columns of an image [px]; 3 = red, green, blue."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from crackvae.images.synthetic import (
    MIN_SIDE_PX,
    RIM_PX,
    SIDE_PX,
    draw_concrete,
    draw_crack,
    draw_image,
    write_images,
)


def cracked(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A surface, the same one cracked, and the mask."""
    rng = np.random.default_rng(number)
    surface_HW3 = draw_concrete(rng, SIDE_PX, SIDE_PX)
    return surface_HW3, *draw_crack(rng, surface_HW3)


def files_in(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_crack", [False, True])
def test_an_image_depends_on_its_seed_number_label_and_side_alone(is_crack):
    image_HW3, mask_HW = draw_image(3, 7, is_crack)
    draw_image(3, 8, is_crack)
    again_HW3, mask_again_HW = draw_image(3, 7, is_crack)
    assert np.array_equal(image_HW3, again_HW3) and np.array_equal(mask_HW, mask_again_HW)
    for other in [(4, 7, is_crack), (3, 8, is_crack), (3, 7, not is_crack)]:
        assert not np.array_equal(image_HW3, draw_image(*other)[0])


def test_another_process_draws_the_same_pixels():
    script = (
        "import sys; from crackvae.images.synthetic import draw_image;"
        "sys.stdout.buffer.write(draw_image(5, 9, True)[0])"
    )
    drawn = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    assert drawn == draw_image(5, 9, True)[0].tobytes()


@pytest.mark.parametrize(("height", "width"), [(MIN_SIDE_PX, MIN_SIDE_PX), (60, 300), (500, 33)])
def test_a_surface_has_the_asked_size_and_a_crack_keeps_it(height, width):
    rng = np.random.default_rng(0)
    surface_HW3 = draw_concrete(rng, height, width)
    image_HW3, mask_HW = draw_crack(rng, surface_HW3)
    assert surface_HW3.shape == image_HW3.shape == (height, width, 3)
    assert surface_HW3.dtype == image_HW3.dtype == np.uint8
    assert mask_HW.shape == (height, width) and mask_HW.dtype == np.bool_


def test_a_surface_too_small_for_a_stone_is_refused():
    with pytest.raises(ValueError, match=f"{MIN_SIDE_PX} px or more"):
        draw_concrete(np.random.default_rng(0), 300, MIN_SIDE_PX - 1)


def test_sound_images_vary_and_have_empty_masks():
    drawn = [draw_image(0, number, False) for number in range(40)]
    means = [float(image_HW3.mean()) for image_HW3, _ in drawn]
    contrasts = [float(image_HW3.std()) for image_HW3, _ in drawn]
    assert np.std(means) > 10
    assert max(contrasts) > 2 * min(contrasts)
    assert not any(mask_HW.any() for _, mask_HW in drawn)


def test_a_sound_image_is_neither_flat_nor_clipped():
    for number in range(20):
        image_HW3, _ = draw_image(1, number, False)
        assert image_HW3.std() > 2
        assert np.isin(image_HW3, (0, 255)).mean() < 0.2


def test_every_cracked_pixel_is_darker_than_before():
    for number in range(20):
        before_HW3, after_HW3, mask_HW = cracked(number)
        assert (after_HW3[mask_HW] < before_HW3[mask_HW]).all()


def test_a_crack_changes_nothing_beyond_its_rim():
    for number in range(20):
        before_HW3, after_HW3, mask_HW = cracked(number)
        near_HW = ndimage.maximum_filter(mask_HW, size=2 * RIM_PX + 1)
        assert np.array_equal(before_HW3[~near_HW], after_HW3[~near_HW])


def test_a_crack_is_seen_but_leaves_most_of_the_surface_sound():
    for number in range(100):
        mask_HW = draw_image(2, number, True)[1]
        assert 0.0005 < mask_HW.mean() < 0.25, f"number {number}"


def test_cracks_reach_from_hairlines_to_wide_ones():
    widest_px = [2 * ndimage.distance_transform_edt(draw_image(2, number, True)[1]).max() for number in range(60)]
    assert min(widest_px) < 4
    assert 7 < max(widest_px) < 20  # wider than a crack is only where branches meet


def test_drawing_a_crack_leaves_the_surface_as_it_was():
    surface_HW3 = draw_concrete(np.random.default_rng(0), 80, 80)
    kept_HW3 = surface_HW3.copy()
    draw_crack(np.random.default_rng(1), surface_HW3)
    assert np.array_equal(surface_HW3, kept_HW3)


def test_a_written_set_holds_one_jpeg_per_image_in_a_folder_per_label(tmp_path):
    write_images(tmp_path / "set", 3, 2, seed=1, side_px=64, workers=1)
    assert sorted(files_in(tmp_path)) == [
        "set/crack/00001.jpg",
        "set/crack/00002.jpg",
        "set/non_crack/00001.jpg",
        "set/non_crack/00002.jpg",
        "set/non_crack/00003.jpg",
    ]
    with Image.open(tmp_path / "set/crack/00002.jpg") as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
        drawn_HW3 = draw_image(1, 2, True, 64)[0]
        assert np.abs(np.asarray(image, float) - drawn_HW3).mean() < 5  # what JPEG loses


def test_masks_lie_beside_the_images_and_are_exact(tmp_path):
    write_images(tmp_path / "set", 1, 2, side_px=64, masks=True, workers=1)
    assert sorted(files_in(tmp_path / "set-masks")) == ["00001.png", "00002.png"]
    assert not any("mask" in name for name in files_in(tmp_path / "set"))
    with Image.open(tmp_path / "set-masks/00002.png") as mask:
        assert np.array_equal(np.asarray(mask), 255 * draw_image(0, 2, True, 64)[1])


def test_two_workers_write_the_same_bytes_as_one(tmp_path):
    write_images(tmp_path / "one", 3, 3, side_px=48, masks=True, workers=1)
    write_images(tmp_path / "two", 3, 3, side_px=48, masks=True, workers=2)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    assert files_in(tmp_path / "one-masks") == files_in(tmp_path / "two-masks")


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    write_images(tmp_path / "small", 1, 1, side_px=48, workers=1)
    write_images(tmp_path / "large", 3, 2, side_px=48, workers=1)
    assert files_in(tmp_path / "small").items() <= files_in(tmp_path / "large").items()


def test_a_folder_that_holds_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="Name a new folder"):
        write_images(tmp_path, 1, 1, side_px=48, workers=1)
    assert files_in(tmp_path) == {"notes.txt": b"mine"}


def test_a_failed_set_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="too small"):
        write_images(tmp_path / "set", 2, 2, side_px=MIN_SIDE_PX - 1, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"n_crack": -1}, {"n_non_crack": 0, "n_crack": 0}, {"workers": 0}])
def test_counts_that_mean_nothing_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="cannot write"):
        write_images(tmp_path / "set", **{"n_non_crack": 1, "n_crack": 1} | wrong)


def test_a_seed_gives_the_pixels_that_it_gave_in_earlier_versions():
    sound, cracked = draw_image(0, 1, False, 64)[0], draw_image(0, 1, True, 64)[0]
    found = [hashlib.sha256(np.ascontiguousarray(drawing).tobytes()).hexdigest()[:16] for drawing in (sound, cracked)]
    assert found == ["fd575c3439e451e4", "6121b9bdcbb4b08d"]
