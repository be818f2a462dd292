"""The focal length of a photograph in its own pixels: with a distance, the scale of what it shows."""

import math

from crackvae.images.metadata import Metadata

# Diagonal of 36 x 24 mm film, to which "35 mm" focal lengths refer (CIPA DC-008, FocalLengthIn35mmFilm).
FILM_DIAGONAL_MM = math.hypot(36, 24)

# An image whose sides shrank by different factors was cropped; its metadata no longer fit.
SAME_SHAPE = 0.02

# Relative standard uncertainties: of a calibrated drone, of the pixels of a sensor with a nominal focal length, and of
# a "35 mm" focal length besides its rounding. Its sensor is unknown where the shape is neither 4:3 nor 3:2.
CALIBRATED, NOMINAL, OTHER_SHAPE = 0.003, 0.015, 0.06


def focal_in_px(metadata: Metadata, width: int, height: int) -> tuple[float, float]:
    """Focal length [px] of an image of this size and its relative standard uncertainty; twice NaN if unknown."""
    long, short = max(width, height), min(width, height)
    if not short:
        return math.nan, math.nan
    exif_long, exif_short = max(metadata.exif_size), min(metadata.exif_size)
    if exif_short and abs(long / exif_long / (short / exif_short) - 1) > SAME_SHAPE:
        return math.nan, math.nan
    if exif_long and not math.isnan(metadata.focal_px):
        return metadata.focal_px * long / exif_long, CALIBRATED
    from_sensor = metadata.focal_mm / metadata.pitch_mm * long / exif_long if exif_long else math.nan
    is_usual = any(abs(long / short / shape - 1) < SAME_SHAPE for shape in (4 / 3, 3 / 2))
    from_film = metadata.focal_35mm / FILM_DIAGONAL_MM * math.hypot(width, height)
    if not math.isnan(from_sensor):
        contradicts = abs(from_sensor / from_film - 1) > 0.2  # one of the two is that of another lens or sensor
        return (math.nan, math.nan) if contradicts else (from_sensor, NOMINAL)
    if math.isnan(from_film):
        return math.nan, math.nan
    rounding = 0.5 / math.sqrt(3) / metadata.focal_35mm
    return from_film, math.hypot(rounding, NOMINAL if is_usual else OTHER_SHAPE)
