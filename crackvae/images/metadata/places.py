"""Places: told less precisely than they are known, and in metres on a map."""

import math

import numpy as np

# Metres of one degree of latitude, and of longitude at the equator.
METRES_PER_DEGREE = 111_320.0


def metres_from_first(lat_N: np.ndarray, lon_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres east and north of the first place; good for the extent of a site, which may lie across the date line."""
    east_N = (lon_N - lon_N[0] + 180) % 360 - 180
    return east_N * METRES_PER_DEGREE * math.cos(math.radians(lat_N[0])), (lat_N - lat_N[0]) * METRES_PER_DEGREE


def round_length(metres: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is not longer: the length of a scale bar."""
    power = 10.0 ** math.floor(math.log10(metres))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= metres)


def coarsened(lat: float, lon: float, precision_m: float) -> tuple[float, float]:
    """The nearest point of a grid of squares of about `precision_m`; exact for 0, and twice NaN for infinity."""
    if precision_m == 0 or math.isnan(lat):
        return lat, lon
    if math.isinf(precision_m):
        return math.nan, math.nan
    step = precision_m / METRES_PER_DEGREE
    lat = min(90.0, max(-90.0, round(lat / step) * step))
    step_lon = min(360.0, step / max(math.cos(math.radians(lat)), 1e-3))
    # Rounded before the modulo, so that the date line has one longitude, -180.
    return round(lat, 7), round((round(round(lon / step_lon) * step_lon, 7) + 180) % 360 - 180, 7)
