"""When, where and with which camera a photograph was taken: EXIF, and the XMP of drones.

Metadata never decide whether an image is scored. What is missing, damaged or absurd is NaN, None or empty.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from crackvae.images.metadata.exif import Directory, Tags, first, number, read_tags, text, values_of

NAN = float("nan")

# Earlier times are those of a clock that was never set (1970, 1980); digital cameras with EXIF came in 1995.
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)

# A clock may be a day ahead; a later time is absurd.
MOST_AHEAD = timedelta(days=1)

# Time zones lie at quarters of an hour, from 12 h behind UTC to 14 h before it.
QUARTER, MOST_BEHIND_UTC, MOST_BEFORE_UTC = timedelta(minutes=15), timedelta(hours=-12), timedelta(hours=14)

# Largest difference between the clock of a camera and that of its satellite receiver to conclude the time zone from.
CLOCK_ERROR = timedelta(minutes=2)

# The shore of the Dead Sea lies at -430 m, the highest road at 5,900 m.
MIN_ALT_M, MAX_ALT_M = -500.0, 10_000.0

# Focal lengths of telephones begin at 1.5 mm; 0 means an unknown lens.
MIN_FOCAL_MM, MAX_FOCAL_MM = 0.5, 3000.0

# Tags of the EXIF standard (CIPA DC-008): of the file, of the camera, and of the position.
MAKE, MODEL = 0x010F, 0x0110
TIMES = ((0x9003, 0x9011, 0x9291), (0x9004, 0x9012, 0x9292))  # taken and digitised, with offset and fraction
FOCAL_LENGTH, FOCAL_35MM, DIGITAL_ZOOM, EXIF_WIDTH, EXIF_HEIGHT = 0x920A, 0xA405, 0xA404, 0xA002, 0xA003
PLANE_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210
LAT_REF, LAT, LON_REF, LON, ALT_REF, ALT, GPS_TIME, GPS_STATUS, GPS_DATE = 1, 2, 3, 4, 5, 6, 7, 9, 29
GPS_DIRECTION_REF, GPS_DIRECTION = 16, 17

# Values of ALT_REF for heights below: the ellipsoid, or sea level before EXIF 3.0; and sea level since EXIF 3.0.
BELOW = (1, b"\x01", 3, b"\x03")

# Millimetres of the units of PLANE_RESOLUTION; 4 and 5 are in use though not in the standard.
PLANE_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}

_TIME = re.compile(r"(\d{4})[:\-/](\d\d)[:\-/](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


@dataclass(frozen=True)
class Metadata:
    """What a photograph says about itself.

    Attributes:
        taken: in UTC, or the camera's own clock as if it were UTC; None if unknown.
        taken_is_local: whether it is the camera's own clock, of an unknown time zone.
        lat, lon: position of the camera [degrees], WGS 84; both NaN if unknown.
        alt_m: its height above sea level.
        heading_deg: where it looked, clockwise from true north; NaN if unknown or measured from magnetic north, and for
            a camera that looked straight down.
        camera: manufacturer and model.
        focal_mm: focal length.
        focal_35mm: that of a lens with the same angle of view on 36 x 24 mm film.
        focal_px: focal length in pixels of an image `exif_size` large, where the drone was calibrated.
        pitch_mm: side of one pixel on the sensor, of an image `exif_size` large.
        exif_size: width and height [px] that the camera wrote; 0, 0 if unknown.
        height_m: height above the starting point of a drone whose camera looks straight down.
        range_m: distance measured by the laser of a drone.
    """

    taken: datetime | None = None
    taken_is_local: bool = False
    lat: float = NAN
    lon: float = NAN
    alt_m: float = NAN
    heading_deg: float = NAN
    camera: str = ""
    focal_mm: float = NAN
    focal_35mm: float = NAN
    focal_px: float = NAN
    pitch_mm: float = NAN
    exif_size: tuple[int, int] = (0, 0)
    height_m: float = NAN
    range_m: float = NAN


def read_metadata(data: bytes) -> Metadata:
    """The metadata of an image file in any format that is decoded; never raises for its content."""
    tags = read_tags(data)
    return _with_drone(_with_time(_camera_and_place(tags), tags), tags.xmp)


def _camera_and_place(tags: Tags) -> Metadata:
    root, camera, gps = tags.root, tags.camera, tags.gps
    lat, lon = _position(
        _degrees(values_of(gps, LAT), first(gps, LAT_REF), "NS"),
        _degrees(values_of(gps, LON), first(gps, LON_REF), "EW"),
    )
    if text(first(gps, GPS_STATUS)) == "V":  # the receiver had no fix
        lat = lon = NAN
    is_below = first(gps, ALT_REF) in BELOW
    is_magnetic = text(first(gps, GPS_DIRECTION_REF)).upper() == "M"  # the declination is not known
    unit_mm = PLANE_UNITS_MM.get(first(camera, PLANE_UNIT) or 2, NAN)
    resolution = _within(number(first(camera, PLANE_RESOLUTION)), 1e-9, 1e9)
    is_zoomed = _within(number(first(camera, DIGITAL_ZOOM)), 1.001, math.inf) > 1
    size = [_within(number(first(camera, tag)), 1, 1e6) for tag in (EXIF_WIDTH, EXIF_HEIGHT)]
    return Metadata(
        lat=lat,
        lon=lon,
        alt_m=_within(number(first(gps, ALT)) * (-1 if is_below else 1), MIN_ALT_M, MAX_ALT_M),
        heading_deg=NAN if is_magnetic else _within(number(first(gps, GPS_DIRECTION)), 0, 360) % 360,
        camera=_camera(text(first(root, MAKE)), text(first(root, MODEL))),
        focal_mm=_within(number(first(camera, FOCAL_LENGTH)), MIN_FOCAL_MM, MAX_FOCAL_MM),
        focal_35mm=NAN if is_zoomed else _within(number(first(camera, FOCAL_35MM)), 4, MAX_FOCAL_MM),
        pitch_mm=NAN if is_zoomed else unit_mm / resolution,
        exif_size=(0, 0) if any(map(math.isnan, size)) else (int(size[0]), int(size[1])),
    )


def _within(value: float, low: float, high: float) -> float:
    return value if low <= value <= high else NAN


def _degrees(values: tuple[Any, ...], reference: Any, signs: str) -> float:
    """Degrees, minutes and seconds, of which the last two may be missing, with the letter of the hemisphere."""
    parts = [*map(number, values[:3]), 0.0, 0.0][:3]
    letter = text(reference).upper()[:1]
    if not values or not letter or letter not in signs or not all(0 <= part <= 60 for part in parts[1:]):
        return NAN
    if parts[0] < 0:  # a sign beside the letter: one of them is wrong, or both say the same
        return NAN
    return (parts[0] + parts[1] / 60 + parts[2] / 3600) * (1 if letter == signs[0] else -1)


def _position(lat: float, lon: float) -> tuple[float, float]:
    """A position on Earth, or twice NaN; 0, 0 is what receivers without a fix write."""
    is_known = abs(lat) <= 90 and abs(lon) <= 180 and (abs(lat) > 1e-6 or abs(lon) > 1e-6)
    return (lat, lon) if is_known else (NAN, NAN)


def _camera(make: str, model: str) -> str:
    """Manufacturer and model, without naming the manufacturer twice."""
    maker = make.split(" ")[0]
    is_named = not maker or model.casefold().startswith(maker.casefold())
    return model if model and is_named else f"{make} {model}".strip()


def _with_time(found: Metadata, tags: Tags) -> Metadata:
    """Add the time: of EXIF with its offset or the zone in which clock and satellites agree, or else of XMP."""
    camera = tags.camera
    for tag, offset_tag, fraction_tag in TIMES:
        local = _time(text(first(camera, tag)), text(first(camera, fraction_tag)))
        if local is None:
            continue
        offset = _offset(text(first(camera, offset_tag)))
        for satellite in (_satellite_time(tags.gps), _time(tags.xmp.get("UTCAtExposure", ""))):
            offset = _offset_between(local, satellite) if offset is None else offset
        return _at(found, local, offset)
    written = tags.xmp.get("DateTimeOriginal") or tags.xmp.get("CreateDate") or ""
    local = _time(written)
    return found if local is None else _at(found, local, _offset(written[19:]))


def _at(found: Metadata, local: datetime, offset: timedelta | None) -> Metadata:
    try:
        taken = local - (offset or timedelta())
    except OverflowError:
        return found
    if not EARLIEST <= taken <= datetime.now(UTC) + MOST_AHEAD:
        return found
    return replace(found, taken=taken, taken_is_local=offset is None)


def _time(written: str, fraction: str = "") -> datetime | None:
    """A time as cameras write it, as if in UTC, with the digits of its fraction of a second."""
    match = _TIME.match(written)
    if not match:
        return None
    digits = fraction if fraction.isdecimal() and fraction.isascii() else ""
    try:
        year, month, day, hour, minute, second = map(int, match.groups())
        return datetime(year, month, day, hour, minute, second, int(f"{digits[:6]:0<6}"), tzinfo=UTC)
    except ValueError:
        return None


def _offset(written: str) -> timedelta | None:
    """The difference to UTC, such as +02:00."""
    match = _OFFSET.search(written)
    if not match:
        return timedelta() if written.endswith("Z") else None
    size = timedelta(hours=int(match[2]), minutes=int(match[3]))
    offset = -size if match[1] == "-" else size
    return offset if MOST_BEHIND_UTC <= offset <= MOST_BEFORE_UTC else None


def _satellite_time(gps: Directory) -> datetime | None:
    """Date and time of the position, in UTC."""
    hour, minute, second = [*map(number, values_of(gps, GPS_TIME)[:3]), NAN, NAN, NAN][:3]
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return None
    return _time(f"{text(first(gps, GPS_DATE))} {int(hour):02}:{int(minute):02}:{int(second):02}")


def _offset_between(local: datetime, satellite: datetime | None) -> timedelta | None:
    """The time zone in which the clock of the camera agrees with the satellites; None if there is none."""
    if satellite is None:
        return None
    offset = round((local - satellite) / QUARTER) * QUARTER
    is_zone = MOST_BEHIND_UTC <= offset <= MOST_BEFORE_UTC and abs(local - satellite - offset) <= CLOCK_ERROR
    return offset if is_zone else None


def _with_drone(found: Metadata, xmp: Mapping[str, str]) -> Metadata:
    """Add what drones write to XMP only, and their position where EXIF has none."""

    def property_of(*names: str) -> float:
        return next((number(xmp[name]) for name in names if name in xmp), NAN)

    if math.isnan(found.lat):
        lat, lon = _position(
            property_of("GpsLatitude", "Latitude"), property_of("GpsLongitude", "GpsLongtitude", "Longitude")
        )
        found = replace(found, lat=lat, lon=lon)
    if math.isnan(found.alt_m):
        found = replace(found, alt_m=_within(property_of("AbsoluteAltitude"), MIN_ALT_M, MAX_ALT_M))
    looks_down = abs(property_of("GimbalPitchDegree", "CameraPitch") + 90) <= 10
    height = _within(property_of("RelativeAltitude"), 0.5, MAX_ALT_M)
    yaw_deg = _within(property_of("GimbalYawDegree"), -360, 360) % 360
    return replace(
        found,
        heading_deg=NAN if looks_down else found.heading_deg if math.isnan(yaw_deg) else yaw_deg,
        height_m=height if looks_down else NAN,
        range_m=_within(property_of("LRFTargetDistance"), 0.2, 10_000),
        focal_px=_within(property_of("CalibratedFocalLength"), 100, 1e6),
    )
