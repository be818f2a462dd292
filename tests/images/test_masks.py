"""Masks are read by what they hold, or refused by name."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from crackvae.errors import ManifestError, UnreadableImage
from crackvae.images.decoding.masks import masks_of, read_mask

# Options of a URI, which are no part of the name of a file.
SERVER = "?endpoint_override=http://127.0.0.1:9000"

CRACKED_HW = np.zeros((64, 96), bool)
CRACKED_HW[30:34, 5:90] = True


def grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.astype(np.uint8))


def palette() -> Image.Image:
    """As labelling tools write it: class 1 is dark red."""
    image = grey(CRACKED_HW * 1)
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


def white_and_red() -> Image.Image:
    """A palette for people: the surface is white."""
    image = grey(CRACKED_HW * 1)
    image.putpalette([255, 255, 255, 255, 0, 0])
    return image


def drawn_layer() -> Image.Image:
    """A layer of an editor: black strokes, transparent elsewhere."""
    return Image.merge("RGBA", [grey(CRACKED_HW * 0)] * 3 + [grey(CRACKED_HW * 255)])


def compressed() -> Image.Image:
    file = io.BytesIO()
    grey(CRACKED_HW * 255).save(file, "JPEG", quality=60)
    return Image.open(file)


WAYS: dict[str, Callable[[], Image.Image]] = {
    "0 and 255": lambda: grey(CRACKED_HW * 255),
    "0 and 1": lambda: grey(CRACKED_HW * 1),
    "one bit": lambda: Image.fromarray(CRACKED_HW),
    "colour": lambda: grey(CRACKED_HW * 255).convert("RGB"),
    "palette": palette,
    "palette with a white surface": white_and_red,
    "16 bits, 1": lambda: Image.fromarray(CRACKED_HW.astype(np.uint16)),
    "black strokes": drawn_layer,
    "red on transparent white": lambda: Image.merge(
        "RGBA", [grey(CRACKED_HW * 0 + 255), *[grey(~CRACKED_HW * 255)] * 2, grey(CRACKED_HW * 255)]
    ),
    "16 bits": lambda: Image.fromarray(CRACKED_HW.astype(np.uint16) * 65535),
    "three labels": lambda: grey(CRACKED_HW * np.where(np.arange(96) < 50, 1, 2)),
    "lossy": compressed,
    "smoothed": lambda: grey(CRACKED_HW * 255).filter(ImageFilter.GaussianBlur(0.6)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_is_read_however_it_was_written(way: str, tmp_path: Path) -> None:
    WAYS[way]().save(tmp_path / "1.png")
    read_HW = read_mask(str(tmp_path / "1.png"))
    differing = int((read_HW != CRACKED_HW).sum())
    assert read_HW.dtype == bool and differing <= (20 if way in ("lossy", "smoothed") else 0)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.uint32, np.int32, np.float32])
@pytest.mark.parametrize("value", [1, 255])
def test_labels_in_a_tiff_of_any_kind_of_number(kind: type, value: int, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "1.tif", CRACKED_HW.astype(kind) * kind(value))
    np.testing.assert_array_equal(read_mask(str(tmp_path / "1.tif")), CRACKED_HW)


def test_a_mask_that_is_no_image_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"mask")
    with pytest.raises(UnreadableImage, match="not an image"):
        read_mask(str(tmp_path / "1.png"))


@pytest.mark.parametrize(
    ("levels_HW", "why"),
    [
        (~CRACKED_HW * 255, "94% of the image as cracked: it is inverted"),
        (CRACKED_HW + 1, "100% of the image as cracked"),
        (CRACKED_HW * 0, "marks no pixel"),
    ],
    ids=["inverted", "labels from 1", "empty"],
)
def test_a_mask_that_marks_the_surface_or_nothing_is_refused_by_name(
    levels_HW: np.ndarray, why: str, tmp_path: Path
) -> None:
    grey(levels_HW).save(tmp_path / "1.png")
    with pytest.raises(ManifestError, match=rf"1\.png marks.*{why}|1\.png {why}"):
        read_mask(str(tmp_path / "1.png"))


@pytest.mark.parametrize(
    ("images", "masks", "pairs"),
    [
        ("d/crack/1.jpg d/crack/2.jpg", "m/1.png m/2.png m/3.png", "m/1.png m/2.png"),
        ("d/crack/a/1.jpg d/crack/b/1.jpg", "m/b/1.png m/a/1.png", "m/a/1.png m/b/1.png"),
        ("d/crack/a/1.jpg d/crack/b/1.jpg", "m/a/1.png", "m/a/1.png -"),
        ("d/crack/a/1.jpg", "m/b/1.png m/a/1.png", "m/a/1.png"),
        ("d/a/x/1.jpg d/b/x/1.jpg", "m/a/x/1.png m/b/x/1.png", "m/a/x/1.png m/b/x/1.png"),
        ("d.zip!/crack/a/1.jpg d.zip!/crack/1.jpg", "m.zip!/a/1.png", "m.zip!/a/1.png -"),
        ("s3://b/a/1.jpg s3://b/c/1.jpg", f"s3://m/a/1.png{SERVER}", f"s3://m/a/1.png{SERVER} -"),
    ],
)
def test_a_mask_belongs_to_the_image_of_its_name_in_folders_of_its_names(images: str, masks: str, pairs: str) -> None:
    found = masks_of(images.split(), masks.split())
    assert [found.get(image, "-") for image in images.split()] == pairs.split()


@pytest.mark.parametrize(
    ("images", "masks"),
    [("d/a/1.jpg d/b/1.jpg", "m/1.png"), ("d/1.jpg", "m/a/1.png m/b/1.png"), ("d/1.jpg", "m/1.png m/1.jpg")],
)
def test_masks_of_which_the_name_leaves_open_whose_they_are_are_refused(images: str, masks: str) -> None:
    with pytest.raises(ManifestError, match=r"may belong to .* or to .*: keep masks in folders"):
        masks_of(images.split(), masks.split())
