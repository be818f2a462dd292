"""Pages of a TIFF are images of their own; thumbnails, pyramids and masks are not."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.images import pictures
from crackvae.images.groups import with_groups
from crackvae.storage.archive import file_of, page_of
from crackvae.storage.listing import list_images
from crackvae.storage.names.pages import full_pages

PAGE = np.random.default_rng(0).integers(60, 200, (40, 50), np.uint8)


def tiff(kinds: list[int], *, bigtiff: bool = False, order: str = "<", reduced: int = 1) -> bytes:
    """Pages whose first pixel is their number; kind 1 is a reduced copy, 4 a mask."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=bigtiff, byteorder=order) as writer:
        for number, kind in enumerate(kinds, start=1):
            page = PAGE if kind != reduced else PAGE[::2, ::2]
            page = page.copy()
            page[0, 0] = number
            page = page > 100 if kind == 4 else page
            colours = "mask" if kind == 4 else "minisblack"
            writer.write(page, photometric=colours, subfiletype=kind, contiguous=False)
    return stream.getvalue()


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([0], [1]),
        ([0, 0, 0], [1, 2, 3]),
        ([0, 1, 1], [1]),
        ([0, 1, 0, 4, 0], [1, 3, 5]),
        ([1, 0], [1]),
        ([2, 2], [1, 2]),
    ],
)
def test_full_pages_are_counted_without_reduced_copies_and_masks(
    kinds: list[int], expected: list[int], order: str, bigtiff: bool
) -> None:
    assert full_pages(io.BytesIO(tiff(kinds, bigtiff=bigtiff, order=order))) == expected


def test_each_page_is_listed_read_and_decoded_as_an_image_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "wall").mkdir()
    (tmp_path / "wall" / "scan.tif").write_bytes(tiff([0, 0, 0]))
    (tmp_path / "wall" / "scan.jpg").write_bytes(b"no TIFF")
    found = list_images(str(tmp_path))
    names = found.images["image"].to_pylist()
    scan = str(tmp_path / "wall" / "scan.tif")
    assert names == [str(tmp_path / "wall" / "scan.jpg"), scan, f"{scan}!/page=2", f"{scan}!/page=3"]
    assert [pictures.read_pixels(name)[0, 0] for name in names[1:]] == [1, 2, 3]
    assert set(with_groups(found, "parent")["group"].to_pylist()) == {"wall"}
    assert len(set(found.images["modified"].to_pylist()[1:])) == 1


def test_pages_of_a_tiff_in_an_archive_are_listed_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/scan.tif", tiff([0, 0]))
    names = list_images(str(tmp_path / "a.zip")).images["image"].to_pylist()
    assert [name.rpartition("a.zip")[2] for name in names] == ["!/b/scan.tif", "!/b/scan.tif!/page=2"]
    assert [pictures.read_pixels(name)[0, 0] for name in names] == [1, 2]


def test_the_name_of_a_page_is_taken_apart() -> None:
    assert (file_of("/a/b.TIFF!/page=12"), page_of("/a/b.TIFF!/page=12")) == ("/a/b.TIFF", 12)
    assert (file_of("/a/b.tif"), page_of("/a/b.tif")) == ("/a/b.tif", 1)
    assert file_of("/a/c.zip!/page=2") == "/a/c.zip!/page=2"


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0"]))
def test_any_bytes_have_pages(data: bytes, start: bytes) -> None:
    assert full_pages(io.BytesIO(start + data))[0] == 1


def test_a_chain_of_pages_that_returns_to_its_start_ends() -> None:
    data = bytearray(tiff([0, 0]))
    first = int.from_bytes(data[4:8], "little")
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[1].offset
    n_entries = int.from_bytes(data[at : at + 2], "little")
    data[at + 2 + 12 * n_entries : at + 6 + 12 * n_entries] = first.to_bytes(4, "little")
    assert full_pages(io.BytesIO(bytes(data))) == [1, 2]
