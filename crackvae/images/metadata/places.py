"""Places that are told less precisely than they are known."""

import math

# Metres of one degree of latitude, and of longitude at the equator.
METRES_PER_DEGREE = 111_320.0


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
