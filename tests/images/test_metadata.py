"""Time, place and camera from the metadata of photographs; damaged metadata change no score."""

import io
import math
import random
import shutil
import struct
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cameras
import numpy as np
import pyarrow as pa
import pytest
from cameras import Photograph
from conftest import small_spec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from crackvae.images import metadata
from crackvae.images.decoded import DECODED_SCHEMA, METADATA, OPTICS, decode_images
from crackvae.images.metadata import Metadata, exif, read_metadata

NAN = math.nan


def known(found: Metadata) -> dict[str, Any]:
    """What is known: no NaN, None or empty value."""
    blank = (None, "", (0, 0), False)
    return {name: value for name, value in vars(found).items() if value not in blank and value == value}


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)


def camera(**tags: Any) -> Photograph:
    return replace(cameras.EOS_40D, **tags)


# ---------------------------------------------------------------------------------------------- real cameras


@pytest.mark.parametrize(
    ("gps", "xmp", "heading_deg"),
    [
        ({17: 123.5}, b"", 123.5),
        ({17: 360.0}, b"", 0.0),
        ({17: 400.0}, b"", NAN),
        ({16: "T", 17: 123.5}, b"", 123.5),
        ({16: "M", 17: 123.5}, b"", NAN),
        ({16: "m\0", 17: 123.5}, b"", NAN),
        ({16: "M", 17: 10.0}, b'drone-dji:GimbalYawDegree="-45.0"', 315.0),
        ({}, b"", NAN),
        ({17: 10.0}, b'drone-dji:GimbalYawDegree="-45.0" drone-dji:GimbalPitchDegree="-10.0"', 315.0),
        ({17: 10.0}, b'drone-dji:GimbalYawDegree="-45.0" drone-dji:GimbalPitchDegree="-89.9"', NAN),
    ],
)
def test_a_heading_is_that_of_the_camera_unless_it_looks_straight_down(
    gps: dict[int, Any], xmp: bytes, heading_deg: float
) -> None:
    found = read_metadata(camera(gps=gps, xmp=xmp).file()).heading_deg
    assert found == pytest.approx(heading_deg, nan_ok=True)


@pytest.mark.parametrize(
    ("reference", "alt_m"), [(None, 12.5), (b"\0", 12.5), (b"\1", -12.5), (b"\2", 12.5), (b"\3", -12.5)]
)
def test_heights_below_are_negative(reference: bytes | None, alt_m: float) -> None:
    gps = {6: 12.5} if reference is None else {5: reference, 6: 12.5}
    assert read_metadata(camera(gps=gps).file()).alt_m == alt_m


@pytest.mark.parametrize(
    ("photograph", "expected"),
    [
        (cameras.MAVIC_2_PRO, (utc(2020, 5, 22, 15, 4, 51), True, 61.0139614, 10.7644352, 494.0, 10.26)),
        (cameras.ZENMUSE_P1, (utc(2021, 5, 26, 15, 21, 49), False, 29.2821902, -94.9224481, 14.687, 35.0)),
        (cameras.PHANTOM_4_PRO, (utc(2018, 6, 12, 10, 33, 21), True, 47.375139, 8.53375, 482.17, 8.8)),
        (cameras.MAVIC_MINI, (utc(2020, 1, 31, 18, 7, 39), True, NAN, NAN, 0.0, 4.49)),
        (cameras.ANAFI_AI, (utc(2021, 10, 20, 13, 46, 2), False, 48.8788611, 2.3678056, 137.5, 5.02)),
        (cameras.IPHONE_12, (utc(2023, 5, 8, 13, 31, 11, 376_000), False, 10.7761611, 106.6995556, -3.25, 4.2)),
        (cameras.COOLPIX_P6000, (utc(2008, 10, 22, 16, 28, 39), True, 43.4674483, 11.8851267, NAN, 6.0)),
        (cameras.EOS_40D, (utc(2008, 5, 30, 15, 56, 1), True, NAN, NAN, NAN, 135.0)),
    ],
    ids=["Mavic 2 Pro", "Zenmuse P1", "Phantom 4 Pro", "Mavic Mini", "Anafi Ai", "iPhone 12", "P6000", "EOS 40D"],
)
def test_cameras_and_drones_say_when_and_where(photograph: Photograph, expected: tuple[Any, ...]) -> None:
    found = read_metadata(photograph.file())
    assert (found.taken, found.taken_is_local) == expected[:2]
    places = (found.lat, found.lon, found.alt_m, found.focal_mm)
    assert places == pytest.approx(expected[2:], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("Canon", "Canon EOS 40D", "Canon EOS 40D"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("DJI\0", "FC6310\0 \0", "DJI FC6310"),
        ("", "FC7203", "FC7203"),
        ("Parrot", "", "Parrot"),
        ("  SONY  ", "ILCE-7RM3\n\u202e", "SONY ILCE-7RM3 \u202e"),
        ("A" * 300, "B", "A" * 80 + " B"),
    ],
)
def test_a_camera_has_one_name(make: str, model: str, name: str) -> None:
    root = {tag: value for tag, value in ((0x010F, make), (0x0110, model)) if value}
    assert read_metadata(Photograph({}, root).file()).camera == name.encode("ascii", "replace").decode()


def test_drones_say_how_far_away_they_are_only_when_the_camera_looks_straight_down() -> None:
    assert read_metadata(cameras.ZENMUSE_P1.file()).height_m == pytest.approx(39.839)
    tilted = replace(cameras.ZENMUSE_P1, xmp=cameras.ZENMUSE_P1.xmp.replace(b"-89.90", b"-45.00"))
    assert math.isnan(read_metadata(tilted.file()).height_m)
    laser = camera(xmp=b'drone-dji:LRFTargetDistance="12.400"')
    assert read_metadata(laser.file()).range_m == 12.4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_format_of_photographs_is_read(kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    photograph = cameras.MAVIC_2_PRO
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", (cameras.RDF % b'Camera:Make="x"').decode())
    assert known(read_metadata(photograph.file(kind, **options))) == known(read_metadata(photograph.file()))


def test_an_ordinary_jpeg_without_metadata_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    Image.new("L", (64, 64)).save(data, "JPEG")
    monkeypatch.setattr(exif.Image, "open", None)
    assert known(read_metadata(data.getvalue())) == {}


# --------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("tags", "gps", "taken", "is_local"),
    [
        ({0x9003: "2024:02:29 08:00:00", 0x9011: "-03:30"}, {}, utc(2024, 2, 29, 11, 30), False),
        ({0x9003: "2024:02:29 08:00:00", 0x9011: "Z"}, {}, utc(2024, 2, 29, 8), False),
        ({0x9003: "2024:02:29 08:00:00", 0x9011: "+99:00"}, {}, utc(2024, 2, 29, 8), True),
        ({0x9004: "2024-02-29T08:00:00"}, {}, utc(2024, 2, 29, 8), True),
        ({0x9003: "2024:02:30 08:00:00", 0x9004: "2024:02:29 08:00:00"}, {}, utc(2024, 2, 29, 8), True),
        # Clock and satellites agree in a time zone.
        ({0x9003: "2024:02:29 08:00:09"}, {29: "2024:02:29", 7: (2.0, 15.0, 3.0)}, utc(2024, 2, 29, 2, 15, 9), False),
        ({0x9003: "2024:02:29 08:00:09"}, {29: "2024:02:29", 7: (2.0, 22.0, 3.0)}, utc(2024, 2, 29, 8, 0, 9), True),
        ({0x9003: "2024:02:29 08:00:09"}, {29: "2024:02:27", 7: (8.0, 0.0, 9.0)}, utc(2024, 2, 29, 8, 0, 9), True),
        # Clocks that were never set, or nothing at all.
        ({0x9003: "1970:01:01 00:00:00"}, {}, None, False),
        ({0x9003: "1980:01:01 00:00:00"}, {}, None, False),
        ({0x9003: "2155:06:01 00:00:00"}, {}, None, False),
        ({0x9003: "0000:00:00 00:00:00"}, {}, None, False),
        ({0x9003: "    :  :     :  :  "}, {}, None, False),
        ({0x9003: "9999:12:31 23:59:59", 0x9011: "-12:00"}, {}, None, False),
        ({}, {}, None, False),
    ],
)
def test_time_is_utc_where_its_zone_is_known(
    tags: dict[int, Any], gps: dict[int, Any], taken: datetime | None, is_local: bool
) -> None:
    found = read_metadata(Photograph(tags, gps=gps).file())
    assert (found.taken, found.taken_is_local) == (taken, is_local)


def test_without_exif_the_time_of_the_xmp_counts() -> None:
    xmp = b'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:DateTimeOriginal="2019-06-12T10:33:21%b"'
    for end, taken, is_local in ((b"+02:00", 8, False), (b".25Z", 10, False), (b"", 10, True)):
        found = read_metadata(Photograph({}, xmp=xmp % end).file())
        assert (found.taken, found.taken_is_local) == (utc(2019, 6, 12, taken, 33, 21), is_local)


# --------------------------------------------------------------------------------------------------- place


@pytest.mark.parametrize("values", [(-33.5,), (-33.0, 30.0, 0.0)])
def test_degrees_with_a_sign_beside_the_letter_of_the_hemisphere_are_unknown(values: tuple[float, ...]) -> None:
    assert math.isnan(metadata._degrees(values, "S", "NS"))
    assert metadata._degrees(tuple(map(abs, values)), "S", "NS") == -33.5


@pytest.mark.parametrize(
    ("gps", "place"),
    [
        ({1: "S", 2: (33.0, 51.5), 3: "W", 4: (70.5,)}, (-33.8583333, -70.5)),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (6.5, 0.0, 0.0)}, (0.0, 6.5)),
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, (NAN, NAN)),
        ({1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (6.5, 0.0, 0.0)}, (NAN, NAN)),
        ({1: "N", 2: (47.0, 99.0, 0.0), 3: "E", 4: (6.5, 0.0, 0.0)}, (NAN, NAN)),
        ({2: (47.0, 1.0, 0.0), 4: (6.5, 0.0, 0.0)}, (NAN, NAN)),
        ({1: "N", 2: (47.0, 1.0, 0.0)}, (NAN, NAN)),
        ({1: "N", 2: (47.0, 1.0, 0.0), 3: "E", 4: (6.5, 0.0, 0.0), 9: "V"}, (NAN, NAN)),
        ({1: "N", 2: (IFDRational(1, 0), 1.0, 0.0), 3: "E", 4: (6.5, 0.0, 0.0)}, (NAN, NAN)),
    ],
)
def test_places_that_cannot_be_are_unknown(gps: dict[int, Any], place: tuple[float, float]) -> None:
    found = read_metadata(Photograph({}, gps=gps).file())
    assert (found.lat, found.lon) == pytest.approx(place, nan_ok=True)


def test_absurd_heights_and_focal_lengths_are_unknown() -> None:
    found = read_metadata(Photograph({0x920A: 0.0, 0xA405: 0}, gps={5: b"\0", 6: 4_294_967.0}).file())
    assert known(found) == {}


def test_a_zoomed_photograph_says_nothing_about_the_size_of_its_pixels() -> None:
    found = read_metadata(camera(camera=cameras.EOS_40D.camera | {0xA404: 2.0, 0xA405: 216}).file())
    assert found.focal_mm == 135 and math.isnan(found.focal_35mm) and math.isnan(found.pitch_mm)
    assert read_metadata(cameras.EOS_40D.file()).pitch_mm == pytest.approx(0.005723, rel=1e-3)


# ------------------------------------------------------------------------------------------- hostile input

TEXTURE = np.random.default_rng(0).integers(60, 190, (96, 128), np.uint8)


def jpeg(block: bytes, marker: bytes = b"Exif\0\0") -> bytes:
    """A photograph with any bytes as its EXIF block."""
    data = io.BytesIO()
    Image.fromarray(TEXTURE).save(data, "JPEG", quality=90)
    segment = marker + block
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data.getvalue()[2:]


def directory(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A block with one directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def damaged_blocks() -> list[bytes]:
    whole = (cameras.MAVIC_2_PRO.exif().tobytes())[6:]
    rng = random.Random(7)

    def flipped() -> bytes:
        block = bytearray(whole)
        for _ in range(6):
            block[rng.randrange(8, len(block))] = rng.randrange(256)
        return bytes(block)

    return [
        b"",
        b"II",
        b"II*\0",
        b"\0" * 200,
        b"\xff" * 200,
        rng.randbytes(400),
        b"II*\0" + b"\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08" + rng.randbytes(200),
        directory((0x8769, 4, 1, 8), (0x8825, 4, 1, 8)),  # directories that are their own parents
        directory((0x8769, 4, 1, 2**32 - 1), (0x8825, 4, 1, 2**31)),
        directory((0x8769, 2, 4, 8), (0x8825, 5, 1, 8), (0x010F, 12, 1, 8)),
        directory((0x010F, 2, 2**32 - 1, 8)),
        directory((0x010F, 5, 2**28, 0)),
        directory(*[(tag, 7, 60_000, 0) for tag in range(1, 2000)]),  # each tag is the whole block
        directory((0x02BC, 1, 200, 8)),  # an XMP that is none
        directory(following=8),
        directory((0x8769, 13, 0, 0), (0x8825, 4, 0, 0)),
        b"Exif\0\0" * 50 + whole,
        *[whole[:length] for length in (9, 20, 61, 100, 155, len(whole) - 3)],
        *[flipped() for _ in range(12)],
    ]


def decoded(data: bytes) -> dict[str, Any]:
    columns = {"image": "a.jpg", "group": "", "bytes": len(data), "modified": None, "error": ""}
    listing = pa.Table.from_pylist([columns])
    (table,) = decode_images(listing, small_spec(), lambda _: data)
    assert table.schema == DECODED_SCHEMA
    return dict(table.to_pylist()[0])


def test_damaged_metadata_change_no_score_and_raise_nothing() -> None:
    blocks = damaged_blocks()
    assert len(blocks) >= 30
    unread = (*METADATA, *OPTICS, "bytes", "content")
    clean = {name: value for name, value in decoded(jpeg(b"", b"other")).items() if name not in unread}
    assert clean["status"] == "scored"
    for block in blocks:
        row = decoded(jpeg(block))
        assert {name: value for name, value in row.items() if name not in unread} == clean
        assert row["taken"] is None or row["taken"] >= metadata.EARLIEST
        assert math.isnan(row["lat"]) == math.isnan(row["lon"])


@given(st.binary(max_size=300), st.integers(0, 2))
def test_no_bytes_raise(noise: bytes, kind: int) -> None:
    whole = cameras.MAVIC_2_PRO.exif().tobytes()[6:]
    data = [jpeg(b"II*\0\x08\0\0\0" + noise), b"MM\0*\0\0\0\x08" + noise, jpeg(whole[: len(noise)] + noise)][kind]
    found = read_metadata(data)
    assert found.taken is None or metadata.EARLIEST <= found.taken <= datetime.now(UTC) + metadata.MOST_AHEAD
    assert not any(isinstance(value, float) and math.isinf(value) for value in vars(found).values())
    assert not abs(found.lat) > 90 and not abs(found.lon) > 180


@pytest.mark.parametrize(
    "packet",
    [
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b"<a>" * 5000,
        b"<a>" * 20_000 + b"</a>" * 20_000,
        b"\xff\xfe<\0",
        b'<a b="' + b"x" * 65_000,
        b"<x:xmpmeta",
        cameras.RDF % b'drone-dji:GpsLatitude="nan" drone-dji:GpsLongitude="inf" drone-dji:AbsoluteAltitude="1e999"',
        cameras.RDF % b'drone-dji:GpsLatitude="91" drone-dji:GpsLongitude="8" drone-dji:AbsoluteAltitude="'
        + b"9" * 5000,
    ],
)
def test_hostile_xmp_says_nothing(packet: bytes) -> None:
    mark = b"http://ns.adobe.com/xap/1.0/\0"
    if len(packet) < 65_000:
        assert known(read_metadata(jpeg(packet, mark))) == {}
    assert known(read_metadata(directory((0x02BC, 1, len(packet), 26)) + packet)) == {}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_exiftool_writes_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photograph.{kind.lower()}"
    Image.fromarray(TEXTURE).save(path, kind)
    tags = {
        "Make": "DJI",
        "Model": "M3E",
        "ExifIFD:DateTimeOriginal": "2023:03:08 14:05:09",
        "OffsetTimeOriginal": "+01:00",
        "FocalLength": "12.29",
        "GPSLatitude": "52.5163",
        "GPSLatitudeRef": "N",
        "GPSLongitude": "13.3777",
        "GPSLongitudeRef": "W",
        "GPSAltitude": "80.5",
        "GPSAltitudeRef": "Above Sea Level",
        "XMP-drone-dji:RelativeAltitude": "+15.2",
        "XMP-drone-dji:GimbalPitchDegree": "-90",
    }
    subprocess.run(["exiftool", "-q", *[f"-{name}={value}" for name, value in tags.items()], str(path)], check=True)
    found = read_metadata(path.read_bytes())
    assert (found.taken, found.camera) == (utc(2023, 3, 8, 13, 5, 9), "DJI M3E")
    assert (found.lat, found.lon, found.alt_m) == pytest.approx((52.5163, -13.3777, 80.5))
    assert (found.focal_mm, found.height_m) == pytest.approx((12.29, 15.2))
