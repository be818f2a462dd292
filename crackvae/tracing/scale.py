"""Millimetres of findings: where the scale of a photograph comes from, how sure it is, and classes of widths."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from crackvae.config import WIDTH_CLASSES
from crackvae.errors import ConfigError
from crackvae.storage.names.unicode_forms import nfc

# Relative standard uncertainties of a distance: measured by hand; of a drone above its starting point, whose ground may
# lie elsewhere, with that of its barometer [m]; of the laser of a drone, whose makers state 0.2 m and 0.15 %.
BY_HAND = 0.05
ABOVE_START, BAROMETER_M = 0.1, 0.5
LASER, LASER_M = 0.0015, 0.2

# Of the scale of an orthophoto, assumed: a slope of 8 degrees shortens a length by 1 %.
GEOTRANSFORM = 0.01


@dataclass(frozen=True)
class Scale:
    """Millimetres a pixel.

    Attributes:
        mm_per_px: NaN if unknown.
        source: in words; "" if unknown.
        sigma: relative standard uncertainty.
    """

    mm_per_px: float = math.nan
    source: str = ""
    sigma: float = math.nan


@dataclass(frozen=True)
class Scales:
    """What a user says about the scale of the photographs of a run.

    Attributes:
        mm_per_px: of every photograph; NaN if unknown.
        of_name: of single photographs or groups: names, or the ends of paths, in Unicode form NFC.
        distance_m: from the camera to the surface, for photographs with a known focal length; NaN if unknown.
        width_limits: ascending limits of the width classes [mm].
    """

    mm_per_px: float = math.nan
    of_name: Mapping[str, float] = field(default_factory=dict)
    distance_m: float = math.nan
    width_limits: tuple[float, ...] = WIDTH_CLASSES["EN-1992-1-1"]

    def scale_of(self, image: str, group: str, optics: Mapping[str, float]) -> Scale:
        """The scale of one photograph: what was said of it, of its group, of all; or its geotransform or optics.

        Args:
            optics: focal_px and focal_sigma, range_m and height_m, mm_per_px of a geotransform, NaN where unknown.
        """
        named = next((self.of_name[name] for name in _names(image, group) if name in self.of_name), math.nan)
        if not math.isnan(named):
            return Scale(named, "table of scales", 0.0)
        if not math.isnan(self.mm_per_px):
            return Scale(self.mm_per_px, "given for all photographs", 0.0)
        if not math.isnan(optics["mm_per_px"]):
            return Scale(optics["mm_per_px"], "geotransform", GEOTRANSFORM)
        if math.isnan(optics["focal_px"]):
            return Scale()
        distance_m, sigma, source = self._distance(optics["range_m"], optics["height_m"])
        mm_per_px = 1000 * distance_m / optics["focal_px"]
        return Scale() if math.isnan(mm_per_px) else Scale(mm_per_px, source, math.hypot(sigma, optics["focal_sigma"]))

    def unused(self, images: Iterable[str], groups: Iterable[str]) -> list[str]:
        """Names of the table that none of some photographs has, sorted."""
        used = {name for image, group in zip(images, groups, strict=True) for name in _names(image, group)}
        return sorted(self.of_name.keys() - used)

    def _distance(self, range_m: float, height_m: float) -> tuple[float, float, str]:
        """Distance of the surface, its relative uncertainty and its source."""
        if not math.isnan(self.distance_m):
            return self.distance_m, BY_HAND, f"focal length and a distance of {self.distance_m:g} m"
        if not math.isnan(range_m):
            return range_m, LASER + LASER_M / range_m, f"focal length and laser, {range_m:.1f} m"
        sigma = math.hypot(ABOVE_START, BAROMETER_M / height_m)
        return height_m, sigma, f"focal length and height above the start, {height_m:.1f} m"


UNKNOWN_SCALES = Scales()


def _names(image: str, group: str) -> list[str]:
    """What a table may call a photograph: the ends of its path, the longest first, and its group."""
    parts = nfc(image).split("/")
    return [*("/".join(parts[start:]) for start in range(len(parts))), nfc(group)]


def in_millimetres(finding: Mapping[str, Any], scale: Scale, width_limits: tuple[float, ...]) -> dict[str, Any]:
    """The columns of a finding that have millimetres; nothing if the scale is unknown."""
    if not scale.source:
        return {}
    mm = scale.mm_per_px
    mean, largest = finding["width_mean_px"] * mm, finding["width_max_px"] * mm
    return {
        "mm_per_px": mm,
        "mm_source": scale.source,
        "length_mm": finding["length_px"] * mm,
        "width_mean_mm": mean,
        "width_max_mm": largest,
        "width_sigma_mm": math.hypot(finding["width_sigma_px"] * mm, mean * scale.sigma),
        "width_class": width_class(largest, width_limits),
    }


def width_class(width_mm: float, limits: tuple[float, ...]) -> str:
    """`0.2 to 0.3 mm`, the limit belonging to the lower class; "" for an unknown width."""
    if math.isnan(width_mm):
        return ""
    width_mm = round(width_mm, 3)
    if width_mm <= limits[0]:
        return f"up to {limits[0]:g} mm"
    between = next((f"{low:g} to {high:g} mm" for low, high in pairwise(limits) if width_mm <= high), "")
    return between or f"over {limits[-1]:g} mm"


def scales_from_csv(content: bytes, path: str) -> dict[str, float]:
    """Millimetres a pixel by name, from a CSV with the columns image or group, or both, and mm_per_px.

    Raises:
        ConfigError: not such a table.
    """
    advice = "it needs the columns image or group, and mm_per_px"
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
        given = [(nfc(row.get("image") or row.get("group") or "").strip(), float(row["mm_per_px"])) for row in rows]
    except (UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"--mm-table {path} is not a table of scales ({type(error).__name__}): {advice}.") from error
    found = dict(given)
    twice = next((name for name, value in given if value != found[name]), "")
    if twice:
        raise ConfigError(f"--mm-table {path} gives {twice!r} two scales: keep one.")
    bad = next((name for name, value in given if not name or not 0 < value < math.inf), None)
    if bad is not None or not found:
        raise ConfigError(f"--mm-table {path} has no name or no positive scale for {bad or 'a row'!r}: {advice}.")
    return found
