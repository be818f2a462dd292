"""Where a pixel of a GeoTIFF lies on the Earth: its geotransform, and its coordinate system by pyproj (PROJ).

Shape letters: N places.
"""

import functools
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

# Value of GTRasterTypeGeoKey: a tie point is the middle of its pixel instead of a corner.
_PIXEL_IS_POINT = 2

# Sides of pixels that differ by less than this share are square: lengths of cracks are more uncertain.
SQUARE_SHARE = 0.02

# Codes that name no coordinate system of the EPSG register: undefined, and defined by the file itself.
_NO_CODES = (0, 32_767)


def place_of(page: Any, x: float, y: float) -> tuple[float, float]:
    """places_of() of one place."""
    (latitude,), (longitude,) = places_of(page, np.array([x], float), np.array([y], float))
    return float(latitude), float(longitude)


def places_of(page: Any, x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes [degrees, WGS 84] of places in an image; NaN where the file or PROJ does not tell.

    Args:
        page: a page of tifffile.
        x_N, y_N: from the upper left corner of the image as it is stored [px], float (N,).

    Source: OGC GeoTIFF 1.1 (2019), sections 7.1.1 and B.6.
    """
    nowhere_N = np.full(len(x_N), math.nan)
    try:
        tags = page.geotiff_tags
        code = int(tags.get("ProjectedCSTypeGeoKey") or tags.get("GeographicTypeGeoKey") or 0)
        if code in _NO_CODES:
            return nowhere_N, nowhere_N
        if tags.get("GTRasterTypeGeoKey") == _PIXEL_IS_POINT:
            x_N, y_N = x_N - 0.5, y_N - 0.5
        longitude_N, latitude_N = _to_wgs84(code)(*_in_system(tags, x_N, y_N))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # damaged tags never decide what is scored
        return nowhere_N, nowhere_N
    is_place_N = (np.abs(latitude_N) <= 90) & (np.abs(longitude_N) <= 180)  # PROJ returns infinity outside of a system
    return np.where(is_place_N, latitude_N, math.nan), np.where(is_place_N, longitude_N, math.nan)


def mm_per_px_of(page: Any, left: float, top: float, width: float, height: float) -> float:
    """Millimetres a pixel on the ground, in a rectangle of an image [px]; NaN if unknown, or pixels are not square."""
    x_4 = np.array([left, left + width, left + width / 2, left + width / 2])
    y_4 = np.array([top + height / 2, top + height / 2, top, top + height])
    lat_4, lon_4 = places_of(page, x_4, y_4)
    if not np.isfinite(lat_4).all():
        return math.nan
    ground = import_module("pyproj").Geod(ellps="WGS84")
    _, _, metres_2 = ground.inv(lon_4[::2], lat_4[::2], lon_4[1::2], lat_4[1::2])
    across, down = 1000 * metres_2 / np.array([width, height])
    return float(across + down) / 2 if abs(across - down) <= SQUARE_SHARE * min(across, down) else math.nan


def _in_system(tags: dict[str, Any], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the coordinate system of the file."""
    if "ModelTransformation" in tags:
        row_x, row_y = tags["ModelTransformation"][0], tags["ModelTransformation"][1]
        return row_x[0] * x + row_x[1] * y + row_x[3], row_y[0] * x + row_y[1] * y + row_y[3]
    scale_x, scale_y = tags["ModelPixelScale"][:2]
    tie_x, tie_y, _, east, north, _ = tags["ModelTiepoint"][:6]
    return east + (x - tie_x) * scale_x, north - (y - tie_y) * scale_y


@functools.lru_cache(maxsize=8)
def _to_wgs84(code: int) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The function from coordinates of an EPSG system to longitude and latitude; raises ValueError for none."""
    try:
        pyproj = import_module("pyproj")
    except ImportError as error:
        raise ValueError("coordinates need pyproj: pip install 'crackvae[formats]'") from error
    try:
        transform: Any = pyproj.Transformer.from_crs(code, 4326, always_xy=True).transform
    except pyproj.exceptions.ProjError as error:
        raise ValueError(f"EPSG:{code} is not a known coordinate system") from error
    return transform  # type: ignore[no-any-return]
