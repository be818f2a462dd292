"""Rows and findings of arriving images, and the maps of the flagged ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import MAX_IMAGE_PX
from crackvae.model.inference import Scorer, explain, one_thread
from crackvae.reports import charts, views
from crackvae.scoring.actors import CPU_BATCH, ScoringSettings
from crackvae.scoring.findings import Tracing
from crackvae.storage import fileio, uris
from crackvae.streaming.arrivals import Arrival
from crackvae.streaming.streams import FRAMES

# Folder of the anomaly maps of flagged images, in the folder of the scores.
MAPS = "_maps"

# Longest side of a map, in sides of a tile: a larger picture is explained around its worst tile.
MAP_TILES = 5

# Pixels of a map that are as bright as the colour scale allows, as a share.
BRIGHTEST_SHARE = 0.001

JPEG_QUALITY = 90

# Of the PNG of a frame: a fifth of the time of the default, 16 % more bytes.
FRAME_COMPRESSION = 1


@dataclass(frozen=True)
class Flagged:
    """A flagged image: its name, its score and its map as a JPEG."""

    image: str
    score: float
    map_jpeg: bytes


class LiveScorer:
    """Scores arriving images as `score` does, in this process, and draws maps of the flagged ones."""

    def __init__(self, scorer: Scorer, run: str, out: str, root: str) -> None:
        """Load the network.

        Args:
            root: folder that names of maps are relative to.
        """
        self.scorer, self.out, self.root = scorer, out, root
        self.begin(run)

    def begin(self, run: str) -> None:
        """Score the images that come from now on for another run."""
        settings = ScoringSettings(run, CPU_BATCH, "auto", (), MAX_IMAGE_PX, tracing=Tracing())
        self._rows_of, self._traced = settings.stages(self.scorer)

    def rows(self, decoded: pa.Table) -> pa.Table:
        """MEASURED_SCHEMA, the row of one image."""
        with one_thread():
            return self._rows_of(decoded)

    @staticmethod
    def save_frame(arrival: Arrival) -> None:
        """Write a frame as it was scored, unless the image exists as a file; raises StorageError."""
        if not arrival.is_file:
            fileio.write_bytes(arrival.image, views.png(arrival.pixels(), FRAME_COMPRESSION))

    def traced(self, rows: pa.Table, decoded: pa.Table) -> pa.Table:
        """The row with its findings in FINDINGS_COLUMN, if the model can trace any."""
        with one_thread():
            return self._traced(rows, decoded)

    def map_of(self, arrival: Arrival, row: dict[str, Any]) -> Flagged | None:
        """Write the anomaly map of a flagged image; None for a file that is gone.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            pixels_HW = arrival.pixels()
        except (UnreadableImage, OSError):  # moved away since it was scored
            return None
        near_HW = self._near(pixels_HW, int(row["worst_x"]), int(row["worst_y"]))
        anomaly_HW = explain(self.scorer.model, near_HW).anomaly_HW
        vmax = max(float(np.quantile(anomaly_HW, 1 - BRIGHTEST_SHARE)), 1e-9)
        jpeg = encoded(charts.anomaly_overlay(near_HW, anomaly_HW, vmax))
        name = uris.relative(arrival.image, uris.join(self.out, FRAMES) if not arrival.is_file else self.root)
        fileio.write_bytes(uris.join(self.out, f"{MAPS}/{name}.jpg"), jpeg)
        return Flagged(arrival.image, float(row["score"]), jpeg)

    def _near(self, pixels_HW: np.ndarray, x: int, y: int) -> np.ndarray:
        """The picture, or of a large one the neighbourhood of its worst tile."""
        height, width = pixels_HW.shape
        side = MAP_TILES * self.scorer.model.spec.tile_px
        margin = (side - self.scorer.model.spec.tile_px) // 2
        top, left = (max(0, min(at - margin, length - side)) for at, length in ((y, height), (x, width)))
        return np.ascontiguousarray(pixels_HW[top : top + side, left : left + side])


def encoded(pixels: np.ndarray) -> bytes:
    """A picture as a JPEG.

    Args:
        pixels: uint8 (h, w, 3).
    """
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY))
