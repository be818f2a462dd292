"""Time, place and scale of public samples of cameras and drones, in files that Pillow and exiftool have written."""

import math
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import cameras
import pytest
from cameras import Photograph
from PIL import Image

from crackvae.images.metadata import Metadata, read_metadata
from crackvae.images.metadata.optics import focal_in_px
from crackvae.tracing.scale import Scales

# Camera; time in UTC or else of its own clock; latitude and longitude.
SAMPLES = {
    "Mavic 2 Pro": (cameras.MAVIC_2_PRO, datetime(2020, 5, 22, 15, 4, 51), True, (61.0139614, 10.7644352)),
    "Phantom 4": (cameras.PHANTOM_4, datetime(2017, 1, 26, 8, 46, 24), True, (32.4786, -90.26)),
    "iPhone 6": (cameras.IPHONE_6, datetime(2014, 9, 16, 14, 5, 12, 133_000), True, (51.7624083, -0.3178917)),
    "iPhone 6 Plus": (
        cameras.IPHONE_6_PLUS,
        datetime(2014, 10, 31, 13, 32, 37, 539_000),
        False,
        (51.4829944, -3.1853361),
    ),
    "Coolpix P6000": (cameras.COOLPIX_P6000, datetime(2008, 10, 22, 16, 28, 39), True, (43.4674483, 11.8851267)),
    "Lumix ZS7": (cameras.LUMIX_ZS7, datetime(2015, 7, 14, 12, 19, 22), False, (55.9723167, 11.3713694)),
    "EOS 40D": (cameras.EOS_40D, datetime(2008, 5, 30, 15, 56, 1), True, (math.nan, math.nan)),
}
DISTANCE_M = 5.0


def by_pillow(photograph: Photograph, folder: Path) -> bytes:
    return photograph.file()


def by_exiftool(photograph: Photograph, folder: Path) -> bytes:
    """A file without metadata into which exiftool has written what it has read of another."""
    donor, path = folder / "donor.jpg", folder / "written.jpg"
    donor.write_bytes(photograph.file())
    Image.new("L", (64, 48), 128).save(path)
    subprocess.run(["exiftool", "-q", "-tagsFromFile", donor, "-all:all", "-unsafe", path], check=True)
    return path.read_bytes()


WRITERS = [
    by_pillow,
    pytest.param(
        by_exiftool,
        marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool")],
    ),
]


def scale_of(found: Metadata, distance_m: float) -> float:
    """Millimetres a pixel of a photograph as large as its camera wrote it."""
    focal_px, focal_sigma = focal_in_px(found, *found.exif_size)
    optics = {
        "focal_px": focal_px,
        "focal_sigma": focal_sigma,
        "range_m": found.range_m,
        "height_m": found.height_m,
        "mm_per_px": math.nan,
    }
    return Scales(distance_m=distance_m).scale_of("a.jpg", "", optics).mm_per_px


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_public_sample_says_when_and_where_it_was_taken(name: str, write, tmp_path: Path) -> None:
    photograph, taken, is_local, place = SAMPLES[name]
    found = read_metadata(write(photograph, tmp_path))
    assert (found.taken, found.taken_is_local) == (taken.replace(tzinfo=UTC), is_local)
    assert (found.lat, found.lon) == pytest.approx(place, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", [name for name in SAMPLES if SAMPLES[name][0].sensor_mm > 0])
def test_the_scale_is_that_of_the_sensor_within_4_percent(name: str, write, tmp_path: Path) -> None:
    photograph = SAMPLES[name][0]
    found = read_metadata(write(photograph, tmp_path))
    on_sensor_mm = photograph.sensor_mm / photograph.camera[0xA002]
    expected = 1000 * DISTANCE_M * on_sensor_mm / photograph.camera[0x920A]
    assert scale_of(found, DISTANCE_M) == pytest.approx(expected, rel=0.04)


def test_a_drone_that_looks_down_needs_no_distance() -> None:
    found = read_metadata(cameras.PHANTOM_4.file())
    assert scale_of(found, math.nan) == pytest.approx(121_500 * 6.17 / 4000 / 3.61, rel=0.04)


def test_six_cameras_have_a_source_and_a_scale() -> None:
    assert all(photograph.source for photograph, *_ in SAMPLES.values())
    assert sum(photograph.sensor_mm > 0 for photograph, *_ in SAMPLES.values()) >= 6
