"""Pictures of single images for the page: decoded, explained by the model and reduced to thumbnails.

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

from crackvae.errors import UnreadableImage
from crackvae.images import pictures
from crackvae.images.tiles import grid_of
from crackvae.model.artifact import Model
from crackvae.model.inference import explain
from crackvae.reports import charts
from crackvae.storage import uris

# Longest side of a thumbnail [px]: a METU image is shown at its own resolution.
THUMBNAIL_PX = 320

# Side of the neighbourhood of the worst tile of a photograph, in tile sides.
NEIGHBOURHOOD_TILES = 2.5

# A map that stays below this share of the colour scale gets no box: nothing in it stands out.
FAINT_SHARE = 0.15

# Share of the most anomalous pixels among which the densest region is searched: a score is their mean.
DENSE_SHARE = 0.02

# Side of the box around the most anomalous region, as a share of the picture.
BOX_SHARE = 0.24

WEBP_QUALITY = 78

# Scale factors that are tried in turn until a thumbnail is small enough.
SCALES = (1.0, 0.75, 0.5, 0.33, 0.2)


@dataclass(frozen=True)
class Box:
    """A region of a picture, as shares of its width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class View:
    """One picture with its reconstruction and anomaly map, all in thumbnail size.

    Attributes:
        picture_hw: uint8.
        reconstruction_hw: uint8, or None without a model.
        anomaly_hw: float32, max-pooled, or None without a model.
        box: the most anomalous region, or None if unknown.
    """

    picture_hw: np.ndarray
    reconstruction_hw: np.ndarray | None
    anomaly_hw: np.ndarray | None
    box: Box | None


@dataclass(frozen=True)
class ImageView:
    """The pictures of one row of a scores table.

    Attributes:
        problem: why there is no picture, or ""; it completes the sentence "This image ...".
        whole: the whole image; for a photograph, without reconstruction and map.
        near: the neighbourhood of the worst tile of a photograph, or None for an image of one tile.
    """

    problem: str
    whole: View | None
    near: View | None

    @property
    def closest(self) -> View | None:
        """The view that shows the most anomalous region best."""
        return self.near or self.whole


def view_image(row: dict[str, Any], model: Model | None) -> ImageView:
    """Read one image and explain it; of a photograph, only the neighbourhood of its worst tile.

    Args:
        row: row of the scores table: image, width, height, rows, cols, worst_x, worst_y.
        model: the model of the score, or None if it is not available.
    """
    try:
        pixels_HW = pictures.read_pixels(row["image"])
    except UnreadableImage as error:
        return ImageView(f"can no longer be read: {error}", None, None)
    except OSError as error:
        return ImageView(f"can no longer be fetched: {uris.reason(error)}", None, None)
    height, width = pixels_HW.shape
    if (row["width"], row["height"]) != (width, height):
        return ImageView("has been replaced by another picture since it was scored", None, None)
    if model is None:
        return ImageView("", View(reduced(pixels_HW, THUMBNAIL_PX), None, None, None), None)
    if row["rows"] * row["cols"] == 1:
        return ImageView("", _explained(pixels_HW, model), None)
    side = grid_of(height, width, model.spec.tile_px, model.spec.stride_px).tile_w
    x, y = row["worst_x"], row["worst_y"]
    box = Box(x / width, y / height, side / width, side / height)
    margin = round((NEIGHBOURHOOD_TILES - 1) / 2 * side)
    near_HW = pixels_HW[max(0, y - margin) : y + side + margin, max(0, x - margin) : x + side + margin]
    whole = View(reduced(pixels_HW, THUMBNAIL_PX), None, None, box)
    return ImageView("", whole, _explained(near_HW, model))


def _explained(pixels_HW: np.ndarray, model: Model) -> View:
    """A view with a box around its most anomalous region."""
    explanation = explain(model, pixels_HW)
    return View(
        reduced(pixels_HW, THUMBNAIL_PX),
        reduced(explanation.reconstruction_HW, THUMBNAIL_PX),
        max_pooled(explanation.anomaly_HW, THUMBNAIL_PX),
        _worst_region(explanation.anomaly_HW),
    )


def _worst_region(anomaly_HW: np.ndarray) -> Box:
    """A box of BOX_SHARE around the densest part of the anomaly map, entirely inside the picture."""
    height, width = anomaly_HW.shape
    box_h, box_w = max(1, round(BOX_SHARE * height)), max(1, round(BOX_SHARE * width))
    excess_HW = np.maximum(anomaly_HW - np.quantile(anomaly_HW, 1 - DENSE_SHARE), 0)
    dense_HW = ndimage.gaussian_filter(excess_HW, (box_h / 6, box_w / 6), mode="constant")
    y, x = np.unravel_index(int(dense_HW.argmax()), dense_HW.shape)
    top = min(max(0, int(y) - box_h // 2), height - box_h)
    left = min(max(0, int(x) - box_w // 2), width - box_w)
    return Box(left / width, top / height, box_w / width, box_h / height)


def reduced(pixels_HW: np.ndarray, side_px: int) -> np.ndarray:
    """The picture with its longer side at most `side_px`, antialiased."""
    image = Image.fromarray(pixels_HW)
    image.thumbnail((side_px, side_px), Image.Resampling.BOX)
    return np.asarray(image)


def max_pooled(anomaly_HW: np.ndarray, side_px: int) -> np.ndarray:
    """An anomaly map in the size of reduced(), max-pooled so that a thin crack stays bright."""
    height, width = anomaly_HW.shape
    block = -(-max(height, width) // side_px)
    if block == 1:
        return anomaly_HW
    rows_hW = np.maximum.reduceat(anomaly_HW, np.arange(0, height, block), axis=0)
    pooled = np.maximum.reduceat(rows_hW, np.arange(0, width, block), axis=1)
    image = Image.new("L", (width, height))
    image.thumbnail((side_px, side_px))
    return np.asarray(Image.fromarray(pooled).resize(image.size, Image.Resampling.BILINEAR))


def box_of(view: View, vmax: float) -> Box | None:
    """The box of a view; None if nothing in its map stands out on a colour scale up to `vmax`."""
    is_faint = view.anomaly_hw is not None and float(view.anomaly_hw.max()) < FAINT_SHARE * vmax
    return None if is_faint else view.box


def shared_vmax(views: list[View]) -> float:
    """Upper end of the colour scale of a page: most of its maps reach it, and all of them remain comparable."""
    peaks = [float(np.quantile(view.anomaly_hw, 0.999)) for view in views if view.anomaly_hw is not None]
    return max(float(np.quantile(peaks, 0.6)), 1e-9) if peaks else 1.0


# -------------------------------------------------------------------------------------------------- encoding


def data_uri(pixels: np.ndarray, max_bytes: int) -> str:
    """A picture as a data URI, scaled down until it takes at most `max_bytes`, or to the smallest of SCALES.

    Args:
        pixels: uint8 (h, w) or (h, w, 3).
    """
    image = Image.fromarray(pixels)
    data = b""
    for share in SCALES:
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        file = io.BytesIO()
        smaller = image if share == 1 else image.resize(size, Image.Resampling.BOX)
        smaller.save(file, "WEBP", quality=WEBP_QUALITY, method=4)
        data = file.getvalue()
        if len(data) <= max_bytes:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def full_size(image: str, model: Model | None, vmax: float) -> Iterator[tuple[str, bytes]]:
    """The image and, with a model, its reconstruction and anomaly map as full-resolution PNGs, by kind."""
    try:
        pixels_HW = pictures.read_pixels(image)
        yield "picture", png(pixels_HW)
        if model is not None:
            explanation = explain(model, pixels_HW)
            yield "reconstruction", png(explanation.reconstruction_HW)
            yield "anomaly", png(charts.anomaly_overlay(pixels_HW, explanation.anomaly_HW, vmax))
    except (UnreadableImage, OSError):
        return


def full_picture(image: str) -> bytes:
    """The image as it is scored, upright and grey, as a PNG at full resolution; raises as read_pixels()."""
    return png(pictures.read_pixels(image))


def png(pixels: np.ndarray, compression: int = 6) -> bytes:
    """A picture as a PNG, uint8 (h, w) or (h, w, 3); compression from 0, none, to 9."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=compression)
    return file.getvalue()
