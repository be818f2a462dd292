"""Places of windows: those that GDAL computes from the same file."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import small_spec

from crackvae.images.decoded import decode_images
from crackvae.images.decoding import geotransform
from crackvae.images.decoding.geotransform import place_of
from crackvae.images.decoding.windows import read_window, with_windows
from crackvae.storage.listing import list_images
from crackvae.storage.names.excerpts import Window

WIDTH, HEIGHT = 900, 700
PIXELS_HW = np.random.default_rng(0).integers(40, 200, (HEIGHT, WIDTH), np.uint8)
UTM_32 = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32_632)
SCALE, TIE = (0.002, 0.002, 0.0), (0.0, 0.0, 0.0, 500_000.0, 5_300_000.0, 0.0)


def drawn(path: Path, keys: tuple[int, ...] = UTM_32, **changed: Any) -> Path:
    tags = {33550: ("d", 3, SCALE), 33922: ("d", 6, TIE), 34735: ("H", len(keys), keys)} | changed.get("tags", {})
    extratags = [(tag, *value, True) for tag, value in tags.items() if value]
    layout = {name: value for name, value in changed.items() if name != "tags"}
    tifffile.imwrite(path, PIXELS_HW, extratags=extratags, metadata=None, **layout)
    return path


def place(path: Path, x: float, y: float) -> tuple[float, float]:
    with tifffile.TiffFile(path) as whole:
        return place_of(whole.pages.first, x, y)


def by_gdal(path: Path, x: float, y: float) -> tuple[float, float]:
    if not shutil.which("gdaltransform"):
        pytest.skip("gdaltransform is not installed: apt-get install gdal-bin")
    command = ["gdaltransform", "-t_srs", "EPSG:4326", "-output_xy", str(path)]
    answer = subprocess.run(command, input=f"{x} {y}\n", capture_output=True, text=True, check=True, timeout=60)
    longitude, latitude = map(float, answer.stdout.split()[:2])
    return latitude, longitude


@pytest.mark.parametrize(("x", "y"), [(0, 0), (900, 700), (123.5, 456.25)])
@pytest.mark.parametrize(
    "arguments",
    [
        ["-a_srs", "EPSG:32632", "-a_ullr", "500000", "5300000", "500001.8", "5299998.6"],
        ["-a_srs", "EPSG:4326", "-a_ullr", "9.1", "48.2", "9.109", "48.193"],
        ["-a_srs", "EPSG:3857", "-a_ullr", "1000000", "6000000", "1000900", "5999300", "-mo", "AREA_OR_POINT=Point"],
    ],
)
def test_a_place_is_that_of_gdal(tmp_path, arguments, x, y):
    if not shutil.which("gdal_translate"):
        pytest.skip("gdal_translate is not installed: apt-get install gdal-bin")
    plain, path = tmp_path / "plain.tif", tmp_path / "geo.tif"
    tifffile.imwrite(plain, PIXELS_HW, metadata=None)
    subprocess.run(["gdal_translate", "-q", *arguments, str(plain), str(path)], check=True, timeout=60)
    assert np.allclose(place(path, x, y), by_gdal(path, x, y), rtol=0, atol=1e-9)


def test_a_turned_image_has_a_matrix(tmp_path):
    angle = math.radians(30)
    cos, sin = 0.01 * math.cos(angle), 0.01 * math.sin(angle)
    matrix = (cos, sin, 0, 500_000.0, sin, -cos, 0, 5_300_000.0, 0, 0, 0, 0, 0, 0, 0, 1.0)
    path = drawn(tmp_path / "a.tif", tags={33550: None, 33922: None, 34264: ("d", 16, matrix)})
    assert np.allclose(place(path, 300, 200), by_gdal(path, 300, 200), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "broken",
    [
        {"keys": (1, 1, 0, 1, 3072, 0, 1, 32_767)},
        {"keys": (1, 1, 0, 1, 3072, 0, 1, 60_000)},
        {"keys": (9, 9, 9)},
        {"tags": {33550: None}},
        {"tags": {33922: ("d", 3, (0.0, 0.0, 0.0))}},
        {"tags": {33922: ("d", 6, (0.0, 0.0, 0.0, 1e300, math.nan, 0.0))}},
        {"tags": {34735: None}},
    ],
)
def test_damaged_or_missing_tags_are_no_place(tmp_path, broken):
    path = drawn(tmp_path / "a.tif", **broken)
    assert np.isnan(place(path, 1, 1)).all()
    assert read_window(Window(str(path), 0, 0, 300, 300)).pixels_HW.shape == (300, 300)


def test_without_pyproj_a_window_is_read_and_has_no_place(tmp_path, monkeypatch):
    geotransform._to_wgs84.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pyproj", None)
    assert np.isnan(place(drawn(tmp_path / "a.tif"), 1, 1)).all()


@pytest.mark.parametrize(
    ("code", "east", "north", "pixel", "expected"),
    [
        (32_632, 500_000.0, 5_300_000.0, (0.002, 0.002), 2 / 0.9996),  # UTM shortens by its scale factor
        (3857, 0.0, 8_399_737.9, (1.0, 1.0), 1000 * math.cos(math.radians(60))),  # Mercator at 60 degrees
        (32_632, 500_000.0, 5_300_000.0, (0.002, 0.003), math.nan),
    ],
)
def test_a_window_has_the_scale_of_the_ground(tmp_path, code, east, north, pixel, expected):
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, code)
    tags = {33550: ("d", 3, (*pixel, 0.0)), 33922: ("d", 6, (0.0, 0.0, 0.0, east, north, 0.0))}
    window = Window(str(drawn(tmp_path / "a.tif", keys, tags=tags)), 100, 100, 400, 300)
    assert read_window(window).mm_per_px == pytest.approx(expected, rel=3e-3, nan_ok=True)


def test_a_window_has_the_place_of_its_middle_in_its_row(tmp_path, monkeypatch):
    from crackvae.images.decoding import windows

    monkeypatch.setattr(windows, "MIN_BYTES", 1)
    path = drawn(tmp_path / "a.tif")
    found = list_images(str(path))
    listed = with_windows(found.images, 100_000)
    images = listed.append_column("group", [["g"] * listed.num_rows])
    (rows,) = [table.to_pylist() for table in decode_images(images, small_spec(), max_px=10**8)]
    expected = place(path, WIDTH / 2, HEIGHT / 2)
    assert [(row["lat"], row["lon"]) for row in rows] == [expected] and rows[0]["taken"] is None
    assert rows[0]["mm_per_px"] == pytest.approx(2 / 0.9996, rel=1e-3)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_a_whole_file_has_the_place_and_the_scale_that_its_windows_have(tmp_path, byteorder, is_big):
    path = drawn(tmp_path / "a.tif", byteorder=byteorder, bigtiff=is_big)
    images = list_images(str(path)).images
    (table,) = decode_images(images.append_column("group", [["g"]]), small_spec())
    (row,) = table.to_pylist()
    window = read_window(Window(str(path), 0, 0, WIDTH, HEIGHT))
    assert (row["lat"], row["lon"]) == window.place[:2] and not math.isnan(row["lat"])
    assert row["mm_per_px"] == window.mm_per_px == pytest.approx(2 / 0.9996, rel=1e-3)


@pytest.mark.parametrize("tag", [256, 257, 278, 33550, 33922, 34735])
@pytest.mark.parametrize("kind", [2, 7, 12])
def test_a_tag_of_another_type_costs_the_place_and_no_run(tmp_path, monkeypatch, tag, kind):
    from crackvae.images.decoding import windows

    monkeypatch.setattr(windows, "MIN_BYTES", 1)
    path = drawn(tmp_path / "a.tif")
    data = path.read_bytes()
    at = data.index(tag.to_bytes(2, "little"), int.from_bytes(data[4:8], "little"))
    path.write_bytes(data[: at + 2] + kind.to_bytes(2, "little") + data[at + 4 :])
    assert len(windows.ground_of(path.read_bytes(), 1)) == 3
    assert with_windows(list_images(str(path)).images, 100_000).num_rows >= 1
