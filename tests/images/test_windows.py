"""TIFFs that are read by window: the pixels, the listing, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import windows
from crackvae.images.decoding.windows import read_window, windows_of, with_windows
from crackvae.storage.listing import list_images
from crackvae.storage.names.excerpts import Window

PIXELS_HW3 = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
GREY_HW = np.rint(PIXELS_HW3 @ np.array([0.299, 0.587, 0.114])).astype(int)

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 33},
    "tiles": {"tile": (128, 160)},
    "planar tiles": {"tile": (128, 160), "planarconfig": "separate"},
    "deflate": {"tile": (128, 128), "compression": "zlib", "predictor": True},
    "BigTIFF": {"bigtiff": True, "tile": (256, 256)},
}


def drawn(path: Path, **options: Any) -> Path:
    planes = np.moveaxis(PIXELS_HW3, 2, 0) if options.get("planarconfig") else PIXELS_HW3
    tifffile.imwrite(path, planes, photometric="rgb", **options)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (600, 450), (131, 257)])
def test_a_window_has_the_pixels_of_the_whole_image(tmp_path, layout, x, y):
    path = drawn(tmp_path / "a.tif", **LAYOUTS[layout])
    picture = read_window(Window(str(path), x, y, 300, 250))
    assert np.abs(picture.pixels_HW - GREY_HW[y : y + 250, x : x + 300]).max() <= 1


def test_windows_cover_every_pixel_and_overlap(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_PX", 300)
    monkeypatch.setattr(windows, "OVERLAP_PX", 60)
    seen_HW = np.zeros((700, 900), int)
    for _, x, y, w, h in windows_of("a.tif", 900, 700):
        seen_HW[y : y + h, x : x + w] += 1
    assert seen_HW.min() == 1 and seen_HW.max() >= 2


def test_only_a_tiff_over_the_limit_is_listed_by_window(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MIN_BYTES", 1_000)
    monkeypatch.setattr(windows, "WINDOW_PX", 512)
    monkeypatch.setattr(windows, "OVERLAP_PX", 64)
    path = drawn(tmp_path / "a.tif", tile=(256, 256))
    small = tmp_path / "b.tif"
    tifffile.imwrite(small, np.zeros((40, 40), np.uint8))
    images = with_windows(list_images(str(tmp_path)).images, 500_000)
    names = [Path(name).name if "!" not in name else name.rpartition("!/")[2] for name in images["image"].to_pylist()]
    assert names[-1] == "b.tif" and len(names) == 5 and "x=0,y=188,w=512,h=512" in names
    assert with_windows(list_images(str(tmp_path)).images, 1_000_000)["image"].to_pylist() == [str(path), str(small)]


def test_a_truncated_file_gives_the_windows_that_are_there(tmp_path):
    path = drawn(tmp_path / "a.tif", rowsperstrip=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert read_window(Window(str(path), 0, 0, 300, 250)).pixels_HW.shape == (250, 300)
    with pytest.raises(UnreadableImage, match="bytes of this window are missing"):
        read_window(Window(str(path), 0, 450, 300, 250))


def test_a_single_strip_that_no_worker_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MAX_SEGMENT_BYTES", 100_000)
    path = drawn(tmp_path / "a.tif", rowsperstrip=700)
    with pytest.raises(UnreadableImage, match="save it in tiles"):
        read_window(Window(str(path), 0, 0, 300, 250))


def test_a_file_that_was_replaced_by_a_smaller_one_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="only 900x700 px"):
        read_window(Window(str(drawn(tmp_path / "a.tif")), 800, 0, 300, 250))
