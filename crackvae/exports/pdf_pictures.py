"""Pictures of the PDF: a finding on its photograph, and a plain map of places.

Shape letters: H, W rows and columns of an image; N places, each x metres to the east and y to the north.
"""

import io
import math
from typing import Any

import numpy as np
from PIL import Image
from reportlab.lib.colors import Color, white
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.platypus import Flowable

from crackvae.exports.pdf_text import COLOUR_OF, FONT, GREY, INK, PALE
from crackvae.exports.xml_text import plain
from crackvae.images.metadata.places import metres_from_first, round_length
from crackvae.storage.tables.traces import branches_of, trace_of

# Longest side of a picture in the file [px]: 250 per inch at the size of a row.
PICTURE_PX = 640

# A picture shows at least this much of the photograph [px], so that a short crack has surroundings.
MIN_SHOWN_PX = 160

# Height of a picture over its width.
ASPECT = 0.72

JPEG_QUALITY = 82

# A map shows at least this extent [m]: a satellite receiver is hardly more precise. Around it is room for the arrow.
MIN_MAP_M = 10.0
MAP_MARGIN = 7 * mm

LABEL_PT = 6

# Names of more structures than this would cover each other.
MAX_NAMED = 12


class Crop(Flowable):
    """A finding on a part of its photograph, with its trace as a dashed line, so that the crack is seen between."""

    def __init__(self, pixels_HW: np.ndarray | None, row: dict[str, Any], width: float) -> None:
        super().__init__()
        self.width, self.height = width, width * ASPECT
        self.row, self.picture = row, None
        if pixels_HW is not None:
            self.left, self.top, self.shown_px = _part(row, pixels_HW.shape)
            right, bottom = self.left + self.shown_px, self.top + self.shown_px * ASPECT
            self.from_x, self.from_y = max(0, math.floor(self.left)), max(0, math.floor(self.top))
            part = Image.fromarray(pixels_HW[self.from_y : math.ceil(bottom), self.from_x : math.ceil(right)])
            self.size = part.size
            part.thumbnail((PICTURE_PX, PICTURE_PX))
            self.picture = io.BytesIO()
            part.save(self.picture, "JPEG", quality=JPEG_QUALITY)

    def draw(self) -> None:
        """Called by reportlab."""
        canvas = self.canv
        canvas.setFillColor(PALE)
        canvas.rect(0, 0, self.width, self.height, stroke=0, fill=1)
        if self.picture is None:
            _label(canvas, self.width / 2, self.height / 2, "The photograph can no longer be read.", GREY, centred=True)
            return
        clip = canvas.beginPath()
        clip.rect(0, 0, self.width, self.height)
        canvas.clipPath(clip, stroke=0, fill=0)
        scale = self.width / self.shown_px
        width, height = (side * scale for side in self.size)
        left, top = (self.from_x - self.left) * scale, (self.from_y - self.top) * scale
        canvas.drawImage(ImageReader(self.picture), left, self.height - top - height, width, height)
        trace_N2 = (trace_of(self.row) + 0.5 - [self.left, self.top]) * [scale, -scale] + [0, self.height]
        canvas.setStrokeColor(COLOUR_OF[self.row["kind"]])
        canvas.setLineWidth(1)
        canvas.setDash(2.5, 3.5)
        canvas.drawPath(_path(canvas, trace_N2), stroke=1, fill=0)


def _part(row: dict[str, Any], shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Left and top edge and width [px] of the part of a photograph that shows a finding with its surroundings.

    Its height is ASPECT times its width; where a photograph is smaller, the part reaches beyond it on both sides.
    """
    height, width = shape
    left, right = max(0, row["left_px"]), min(width, row["right_px"])  # a crack may leave its window of a TIFF
    top, bottom = max(0, row["top_px"]), min(height, row["bottom_px"])
    box_w, box_h = right - left, bottom - top
    shown = min(max(MIN_SHOWN_PX, 1.25 * box_w, 1.25 * box_h / ASPECT), width, height / ASPECT)
    shown = max(shown, box_w, box_h / ASPECT)
    return _start((left + right) / 2, shown, width), _start((top + bottom) / 2, shown * ASPECT, height), shown


def _start(middle: float, shown: float, side: int) -> float:
    """Where a part of a photograph begins that has its middle as near to a place as the borders allow [px]."""
    return (side - shown) / 2 if shown > side else max(0.0, min(middle - shown / 2, side - shown))


def _path(canvas: Any, trace_N2: np.ndarray) -> Any:
    path = canvas.beginPath()
    for part in branches_of(trace_N2):
        first, *others = trace_N2[part].tolist()
        path.moveTo(*first)
        for point in others:
            path.lineTo(*point)
    return path


class Map(Flowable):
    """Places on a plain grid with a scale bar and an arrow to the north; no network is needed to draw it."""

    def __init__(
        self, rows: list[dict[str, Any]], size: tuple[float, float], marked: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.width, self.height = size
        self.rows = [row for row in rows if not math.isnan(row["lat"])]
        self.marked = marked

    def draw(self) -> None:
        """Called by reportlab."""
        canvas = self.canv
        canvas.setFillColor(white)
        canvas.setStrokeColor(PALE)
        canvas.setLineWidth(0.4)
        canvas.rect(0, 0, self.width, self.height, stroke=1, fill=1)
        if not self.rows or (self.marked and math.isnan(self.marked["lat"])):
            _label(canvas, self.width / 2, self.height / 2, "place not known", GREY, centred=True)
            return
        places = np.array([[row["lat"], row["lon"]] for row in self.rows])
        places_N2 = np.stack(metres_from_first(*places.T), axis=1)
        room_2 = np.array([self.width, self.height]) - 2 * MAP_MARGIN
        metres_per_point = float((np.maximum(np.ptp(places_N2, axis=0), MIN_MAP_M) / room_2).max())
        centre = (places_N2.min(axis=0) + places_N2.max(axis=0)) / 2
        step = round_length(metres_per_point * room_2.min() / 3)
        self._grid(centre, step, metres_per_point)
        at_N2 = (places_N2 - centre) / metres_per_point + np.array([self.width, self.height]) / 2
        order = sorted(range(len(self.rows)), key=lambda number: self.rows[number] is self.marked)
        for number in order:
            row = self.rows[number]
            is_dim = self.marked is not None and row is not self.marked
            canvas.setFillColor(PALE if is_dim else COLOUR_OF[row["kind"]])
            canvas.setStrokeColor(GREY if is_dim else white)
            x, y = at_N2[number].tolist()
            canvas.circle(x, y, 1.3 if is_dim else 2.4, stroke=1, fill=1)
        if self.marked is None:
            self._name_groups(at_N2)
        self._scale_bar(step, metres_per_point)

    def _name_groups(self, at_N2: np.ndarray) -> None:
        """The name of each structure above its northernmost place."""
        highest: dict[str, int] = {}
        for number in np.argsort(-at_N2[:, 1], kind="stable").tolist():
            highest.setdefault(self.rows[number]["group"], number)
        for group, number in highest.items() if len(highest) <= MAX_NAMED else ():
            x, y = at_N2[number].tolist()
            text = plain(group)[:30]
            half = self.canv.stringWidth(text, FONT, LABEL_PT) / 2 + 1 * mm
            _label(self.canv, min(max(x, half), self.width - half), y + 1.5 * mm, text, INK, centred=True)

    def _grid(self, centre: np.ndarray, step: float, metres_per_point: float) -> None:
        """Lines `step` metres apart, through whole multiples of it."""
        for axis, size in enumerate((self.width, self.height)):
            half = size / 2 * metres_per_point
            first = math.ceil((centre[axis] - half) / step)
            for number in range(first, math.floor((centre[axis] + half) / step) + 1):
                at = (number * step - centre[axis]) / metres_per_point + size / 2
                ends = (at, 0, at, self.height) if axis == 0 else (0, at, self.width, at)
                self.canv.line(*ends)

    def _scale_bar(self, step: float, metres_per_point: float) -> None:
        canvas, x, y = self.canv, 2 * mm, 2 * mm
        canvas.setStrokeColor(INK)
        canvas.setLineWidth(1.2)
        canvas.line(x, y, x + step / metres_per_point, y)
        _label(canvas, x, y + 1 * mm, f"{step:,.0f} m", INK)
        top, right = self.height - 2 * mm, self.width - 3 * mm
        canvas.setFillColor(INK)
        arrow = canvas.beginPath()
        arrow.moveTo(right, top)
        arrow.lineTo(right - 1.2 * mm, top - 4 * mm)
        arrow.lineTo(right + 1.2 * mm, top - 4 * mm)
        arrow.close()
        canvas.drawPath(arrow, stroke=0, fill=1)
        _label(canvas, right, top - 7 * mm, "N", INK, centred=True)


def _label(canvas: Any, x: float, y: float, text: str, colour: Color, *, centred: bool = False) -> None:
    canvas.setFont(FONT, LABEL_PT)
    canvas.setFillColor(colour)
    (canvas.drawCentredString if centred else canvas.drawString)(x, y, text)
