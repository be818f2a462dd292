"""Pictures of single images for the page: read, explained by the model, reduced to thumbnails.

Shape letters: H, W rows and columns of an image; h, w of a thumbnail.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import block_reduce

from crackvae.errors import UnreadableImage
from crackvae.images import decoding
from crackvae.model.artifact import Model
from crackvae.model.inference import Explanation, explain
from crackvae.reports import charts
from crackvae.reports.crack_size import CrackSize, crack_size, touching, trace
from crackvae.storage import fileio, uris

# Longest side of a thumbnail [px]: a METU image is shown as it is.
THUMBNAIL_PX, PHOTOGRAPH_PX = 320, 1280


# Of a large photograph the worst tile is shown with this many tile sides around it.
NEIGHBOURHOOD_TILES = 2.5


# No box where the map nowhere reaches this share of the page's brightest colour: there is no place to point at.
FAINT_SHARE = 0.15


# The densest place is looked for among this share of the pixels, the most anomalous ones: a score is their mean.
DENSE_SHARE = 0.02


# Side of the box around the worst place, as a share of the picture it is drawn on.
BOX_SHARE = 0.24


WEBP_QUALITY = 78


# Tried one after the other until a thumbnail is small enough.
SMALLER = (1.0, 0.75, 0.5, 0.33, 0.2)


@dataclass(frozen=True)
class Box:
    """A place in a picture, as shares of its width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class View:
    """One picture with what the model makes of it, all in thumbnail size.

    Attributes:
        picture_hw: uint8.
        reconstruction_hw: uint8, or None without a model.
        anomaly_hw: float32, or None without a model; of the pixels that share one here the largest value.
        box: the worst place, or None where it is not known.
    """

    picture_hw: np.ndarray
    reconstruction_hw: np.ndarray | None
    anomaly_hw: np.ndarray | None
    box: Box | None


@dataclass(frozen=True)
class ImageView:
    """One row of a table as a person looks at it.

    Attributes:
        problem: why there is no picture, or what is wrong with it; "" for nearly every image.
        whole: the whole image; of a photograph without the model's part.
        near: the worst tile of a photograph and what is around it, or None for an image of one tile.
        crack: size of what the map of an image of one tile shows, or None.
    """

    problem: str
    whole: View | None
    near: View | None
    crack: CrackSize | None

    @property
    def closest(self) -> View | None:
        """The view that shows the worst place best."""
        return self.near or self.whole


def look(row: dict[str, Any], model: Model | None) -> ImageView:
    """Read one image and explain it; of a photograph only the neighbourhood of its worst tile is explained.

    Args:
        row: of the scores table: image, width, height, rows, cols, worst_x, worst_y, flagged.
        model: the one that gave the score, or None where it is not at hand.
    """
    try:
        pixels_HW = decoding.decode(fileio.read_image(row["image"]))
    except UnreadableImage as error:
        return ImageView(f"can no longer be read: {error}", None, None, None)
    except OSError as error:
        return ImageView(f"can no longer be fetched: {uris.reason(error)}", None, None, None)
    height, width = pixels_HW.shape
    if (row["width"], row["height"]) != (width, height):
        return ImageView("was replaced by another picture since it was scored", None, None, None)
    if model is None:
        return ImageView("", View(_reduced(pixels_HW, THUMBNAIL_PX), None, None, None), None, None)
    if row["rows"] * row["cols"] == 1:
        view, anomaly_HW = _explained(pixels_HW, model)
        return ImageView("", view, None, crack_size(trace(anomaly_HW)) if row["flagged"] else None)
    side = min(model.spec.tile_px, height, width)
    x, y = row["worst_x"], row["worst_y"]
    box = Box(x / width, y / height, side / width, side / height)
    margin = round((NEIGHBOURHOOD_TILES - 1) / 2 * side)
    near_HW = pixels_HW[max(0, y - margin) : y + side + margin, max(0, x - margin) : x + side + margin]
    whole = View(_reduced(pixels_HW, THUMBNAIL_PX), None, None, box)
    return ImageView("", whole, _explained(near_HW, model)[0], None)


def _explained(pixels_HW: np.ndarray, model: Model) -> tuple[View, np.ndarray]:
    """A view with its worst place boxed, and the anomaly map at the image's own resolution."""
    explanation = explain(model, pixels_HW)
    anomaly_HW = explanation.anomaly_HW
    return View(
        _reduced(pixels_HW, THUMBNAIL_PX),
        _reduced(explanation.reconstruction_HW, THUMBNAIL_PX),
        _largest(anomaly_HW, THUMBNAIL_PX),
        _worst_place(anomaly_HW),
    ), anomaly_HW


def _worst_place(anomaly_HW: np.ndarray) -> Box:
    """A box of BOX_SHARE around the place where the anomaly is densest, wholly inside the picture."""
    height, width = anomaly_HW.shape
    box_h, box_w = max(1, round(BOX_SHARE * height)), max(1, round(BOX_SHARE * width))
    excess_HW = np.maximum(anomaly_HW - np.quantile(anomaly_HW, 1 - DENSE_SHARE), 0)
    dense_HW = ndimage.gaussian_filter(excess_HW, (box_h / 6, box_w / 6), mode="constant")
    y, x = np.unravel_index(int(dense_HW.argmax()), dense_HW.shape)
    top = min(max(0, int(y) - box_h // 2), height - box_h)
    left = min(max(0, int(x) - box_w // 2), width - box_w)
    return Box(left / width, top / height, box_w / width, box_h / height)


def _reduced(pixels_HW: np.ndarray, side_px: int) -> np.ndarray:
    """The picture with its longer side at most `side_px`, antialiased."""
    image = Image.fromarray(pixels_HW)
    image.thumbnail((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(image)


def _largest(anomaly_HW: np.ndarray, side_px: int) -> np.ndarray:
    """An anomaly map in the size of _reduced(): the largest value in each place, so that a thin crack stays bright."""
    height, width = anomaly_HW.shape
    block = -(-max(height, width) // side_px)
    if block == 1:
        return anomaly_HW
    largest = block_reduce(anomaly_HW, block, np.max)
    image = Image.new("L", (width, height))
    image.thumbnail((side_px, side_px))
    return np.asarray(Image.fromarray(largest).resize(image.size, Image.Resampling.BILINEAR))


def box_of(view: View, top: float) -> Box | None:
    """The box of a view, unless its map is so faint in colours up to `top` that it would surround nothing."""
    is_faint = view.anomaly_hw is not None and float(view.anomaly_hw.max()) < FAINT_SHARE * top
    return None if is_faint else view.box


def shared_top(views: list[View]) -> float:
    """One scale for the anomaly maps of a page: most of the worst places reach its end, and they stay comparable."""
    peaks = [float(np.quantile(view.anomaly_hw, 0.999)) for view in views if view.anomaly_hw is not None]
    return max(float(np.quantile(peaks, 0.6)), 1e-9) if peaks else 1.0


# ---------------------------------------------------------------------------------------- large photographs


@dataclass(frozen=True)
class Photograph:
    """A large photograph with everything that its tiles say.

    Attributes:
        view: whole, at PHOTOGRAPH_PX.
        tile_scores: float (rows, cols).
        worst: left edge, top edge [px], score and thumbnail (uint8) of the worst tiles, worst first.
        crack: size of what the map shows in and from the tiles above the threshold, or None without such a tile.
    """

    view: View
    tile_scores: np.ndarray
    worst: list[tuple[int, int, float, np.ndarray]]
    crack: CrackSize | None


def photograph(row: dict[str, Any], model: Model, n_worst: int) -> Photograph | None:
    """Explain a whole photograph; None where its picture is no longer the one scored, which look() has said already."""
    try:
        pixels_HW = decoding.decode(fileio.read_image(row["image"]))
        if pixels_HW.shape != (row["height"], row["width"]):
            return None
        explanation = explain(model, pixels_HW)
    except (UnreadableImage, OSError):
        return None
    side = min(model.spec.tile_px, *pixels_HW.shape)
    order = np.argsort(-explanation.tile_scores, axis=None, kind="stable")[:n_worst]
    worst = []
    for tile_row, col in zip(*np.unravel_index(order, explanation.tile_scores.shape), strict=True):
        x, y = explanation.xs[col], explanation.ys[tile_row]
        tile_HW = pixels_HW[y : y + side, x : x + side]
        worst.append((x, y, float(explanation.tile_scores[tile_row, col]), _reduced(tile_HW, THUMBNAIL_PX)))
    height, width = pixels_HW.shape
    box = Box(worst[0][0] / width, worst[0][1] / height, side / width, side / height)
    view = View(_reduced(pixels_HW, PHOTOGRAPH_PX), None, _largest(explanation.anomaly_HW, PHOTOGRAPH_PX), box)
    return Photograph(view, explanation.tile_scores, worst, _measured(explanation, side, row["threshold"]))


def _measured(explanation: Explanation, side: int, threshold: float) -> CrackSize | None:
    """Size of the cracks that touch a tile above the threshold: elsewhere a trace is grain that nobody flagged."""
    flagged_HW = np.zeros(explanation.anomaly_HW.shape, bool)
    for tile_row, col in np.argwhere(explanation.tile_scores > threshold):
        y, x = explanation.ys[tile_row], explanation.xs[col]
        flagged_HW[y : y + side, x : x + side] = True
    if not flagged_HW.any():
        return None
    return crack_size(touching(trace(explanation.anomaly_HW), flagged_HW))


# -------------------------------------------------------------------------------------------------- encoding


def data_uri(pixels: np.ndarray, max_bytes: int) -> str:
    """A picture to put into a page, made smaller until it takes at most `max_bytes` (unless it is tiny already).

    Args:
        pixels: uint8 (h, w) or (h, w, 3).
    """
    image = Image.fromarray(pixels)
    data = b""
    for share in SMALLER:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        file = io.BytesIO()
        smaller = image if share == 1 else image.resize(size, Image.Resampling.BOX)
        smaller.save(file, "WEBP", quality=WEBP_QUALITY, method=4)
        data = file.getvalue()
        if len(data) <= max_bytes:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def full_size(image: str, model: Model | None, top: float) -> Iterator[tuple[str, bytes]]:
    """The image and, with a model, its reconstruction and anomaly map as PNGs at its own resolution, by kind."""
    try:
        pixels_HW = decoding.decode(fileio.read_image(image))
        yield "picture", _png(pixels_HW)
        if model is not None:
            explanation = explain(model, pixels_HW)
            yield "reconstruction", _png(explanation.reconstruction_HW)
            yield "anomaly", _png(charts.anomaly_overlay(pixels_HW, explanation.anomaly_HW, top))
    except (UnreadableImage, OSError):
        return


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
