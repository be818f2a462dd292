"""Time and place of the frames of a drone's video: the subtitles (.SRT) beside it, or the place that the file names.

Metadata never decide whether a frame is scored. What is missing, damaged or absurd is NaN or None.
"""

import bisect
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from crackvae.errors import StorageError
from crackvae.storage.fileio import exists
from crackvae.storage.filesystems import opened

# A subtitle holds for this long after it begins, where none follows [s].
HOLDS_S = 2.0

# Three hours at 30 subtitles a second, 400 bytes each.
MAX_BYTES = 130_000_000

# Subtitles begin up to half a frame after their frame [s].
EARLY_S = 0.02

_STARTS = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})\s*-->")
_TAKEN = re.compile(r"(\d{4})[-.](\d\d)[-.](\d\d)\s+(\d\d):(\d\d):(\d\d)(?:[.,](\d{3}))?")
_NUMBER = r"\s*[:=]?\s*(-?\d+(?:\.\d+)?)"
_LAT, _LON = re.compile(rf"\blatitude{_NUMBER}", re.I), re.compile(rf"\blongt?itude{_NUMBER}", re.I)
_ALT = re.compile(rf"\b(?:abs_alt|altitude){_NUMBER}", re.I)
_GPS = re.compile(r"\bGPS\s*\(\s*(-?\d+\.\d+)\s*,\s*(-?\d+\.\d+)")  # longitude first
_ISO_6709 = re.compile(r"([+-]\d{1,2}\.\d+)([+-]\d{1,3}\.\d+)([+-]\d+(?:\.\d+)?)?")

# Keys of a container, in small letters, for the place that a phone or drone writes.
_PLACE_KEYS = ("com.apple.quicktime.location.iso6709", "location", "location-eng")


class Subtitle(NamedTuple):
    """What the camera knew from `start_s` on: time by its own clock, and place [degrees, WGS 84; m]."""

    start_s: float
    taken: datetime | None
    place: tuple[float, float, float]


NOWHERE = (math.nan, math.nan, math.nan)


def subtitles_of(video: str) -> list[Subtitle]:
    """The subtitles beside a video, `clip.SRT` of `clip.mp4`, by time; none where there is no such file."""
    bare, _, options = video.partition("?")
    stem = bare.rpartition(".")[0]
    for ending in (".SRT", ".srt"):
        path = f"{stem}{ending}{'?' if options else ''}{options}"
        try:
            if exists(path):
                with opened(path) as file:
                    return parsed(file.read(MAX_BYTES).decode(errors="replace"))
        except (OSError, StorageError, pa.ArrowException):
            return []
    return []


def parsed(text: str) -> list[Subtitle]:
    """The subtitles of a file in the formats of DJI drones, by time."""
    starts = list(_STARTS.finditer(text))
    ends = [*(one.start() for one in starts), len(text)][1:]
    found = [_subtitle(one, text[one.end() : end]) for one, end in zip(starts, ends, strict=False)]
    return sorted(found, key=lambda one: one.start_s)


def _subtitle(start: re.Match[str], text: str) -> Subtitle:
    hours, minutes, seconds, fraction = start.groups()
    start_s = 3600 * int(hours) + 60 * int(minutes) + int(seconds) + int(fraction.ljust(3, "0")) / 1000
    lat, lon, alt = (found and float(found[1]) for found in (_LAT.search(text), _LON.search(text), _ALT.search(text)))
    if (lat is None or lon is None) and (gps := _GPS.search(text)):
        lon, lat = float(gps[1]), float(gps[2])
    return Subtitle(start_s, _time(_TAKEN.search(text)), _place(lat, lon, alt))


def _time(found: re.Match[str] | None) -> datetime | None:
    if not found:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        return datetime(year, month, day, hour, minute, second, 1000 * int(found[7] or 0))
    except ValueError:
        return None


def _place(lat: float | None, lon: float | None, alt: float | None) -> tuple[float, float, float]:
    if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180 or (lat, lon) == (0, 0):
        return NOWHERE
    return lat, lon, math.nan if alt is None else alt


def place_in(container: Mapping[str, str]) -> tuple[float, float, float]:
    """The one place that the metadata of a video name (ISO 6709)."""
    for key, value in container.items():
        if key.lower() in _PLACE_KEYS and (found := _ISO_6709.match(value)):
            return _place(float(found[1]), float(found[2]), float(found[3]) if found[3] else None)
    return NOWHERE


def subtitle_at(subtitles: list[Subtitle], time_s: float) -> Subtitle | None:
    """The subtitle that is shown at a time."""
    number = bisect.bisect_right(subtitles, time_s + EARLY_S, key=lambda one: one.start_s) - 1
    if number < 0 or time_s > subtitles[number].start_s + HOLDS_S:
        return None
    return subtitles[number]
