"""TIFFs of more pixels than a worker can hold, read by window: `ortho.tif!/x=0,y=4096,w=4096,h=4096`.

Only the strips or tiles of the file that a window touches are read and decoded, in object storage by range requests.

Shape letters: H, W rows and columns of a window; h, w of the part of it that one strip or tile covers; S samples.
"""

import contextlib
import io
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import StorageError, UnreadableImage
from crackvae.images.decoding import Picture, tiff
from crackvae.images.decoding.geotransform import mm_per_px_of, place_of, places_of
from crackvae.storage import archive
from crackvae.storage.filesystems import opened
from crackvae.storage.names.excerpts import Window, excerpt_of
from crackvae.storage.names.pages import TIFF_NAME, sorted_once

# Side of a window, and what neighbours have in common [px]: two tiles of the default model.
WINDOW_PX, OVERLAP_PX = 4096, 512

# A smaller file [bytes] is not looked into: with 160 Mpx it would have 20 pixels a byte, which no photograph has.
MIN_BYTES = 8_000_000

# The start of the entry of GeoKeyDirectoryTag, 16-bit numbers, in either byte order: a file without it is no GeoTIFF.
GEO_KEYS = (b"\xaf\x87\x03\x00", b"\x87\xaf\x00\x03")

# Largest strip or tile, decoded [bytes]; a worker holds one besides the window.
MAX_SEGMENT_BYTES = 400_000_000


def with_windows(images: pa.Table, max_px: int) -> pa.Table:
    """A listing in which a TIFF of more than `max_px` pixels is replaced by its windows, sorted by name.

    Args:
        images: LISTING_SCHEMA.
    """
    is_large = pc.and_(
        pc.match_substring_regex(images["image"], TIFF_NAME), pc.greater_equal(images["bytes"], MIN_BYTES)
    )
    replaced: dict[str, list[str]] = {}
    for name in images["image"].filter(is_large).to_pylist():
        if not archive.split_entry(name) and (size := _size(name)) and size[0] * size[1] > max_px:
            replaced[name] = [str(window) for window in windows_of(name, *size)]
    return with_excerpts(images, replaced)


def with_excerpts(images: pa.Table, excerpts: dict[str, list[str]]) -> pa.Table:
    """A listing in which some files are replaced by their excerpts, each with the size and time of its file.

    Args:
        excerpts: their names, by that of the file.
    """
    if not excerpts:
        return images
    is_replaced = pc.is_in(images["image"], value_set=pa.array(list(excerpts), pa.string()))
    files = images.filter(is_replaced)
    counts = [len(excerpts[name]) for name in files["image"].to_pylist()]
    rows = files.take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    names = pa.array([one for name in files["image"].to_pylist() for one in excerpts[name]], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("image"), "image", names)
    return sorted_once(pa.concat_tables([images.filter(pc.invert(is_replaced)), rows]))


def windows_of(file: str, width: int, height: int) -> Iterator[Window]:
    """Windows that cover an image, row by row; neighbours overlap by OVERLAP_PX."""
    from crackvae.images.tiles import tile_origins  # imported here: it loads torch, which exports do not need

    window_w, window_h, stride_px = min(WINDOW_PX, width), min(WINDOW_PX, height), WINDOW_PX - OVERLAP_PX
    for y in tile_origins(height, window_h, stride_px):
        for x in tile_origins(width, window_w, stride_px):
            yield Window(file, x, y, window_w, window_h)


def _size(file: str) -> tuple[int, int] | None:
    """Width and height by the header of a TIFF; None where it cannot be read, which decoding will explain."""
    with contextlib.suppress(OSError, UnreadableImage), _page(file) as page:
        return int(page.imagewidth), int(page.imagelength)
    return None


@contextlib.contextmanager
def _page(file: str) -> Iterator[Any]:
    with opened(file) as stream, _page_in(stream, re.sub(r".*/", "", file)) as page:
        yield page


@contextlib.contextmanager
def _page_in(stream: Any, name: str, number: int = 1) -> Iterator[Any]:
    """A page of an open TIFF, counted from 1."""
    import tifffile  # imported here: it takes 0.3 s, and few images need it

    try:
        with tifffile.TiffFile(stream, name=name) as whole:
            yield whole.pages[number - 1]
    except (UnreadableImage, OSError, StorageError):
        raise
    except Exception as error:  # tifffile raises TypeError and others on damaged tags
        raise UnreadableImage(f"damaged TIFF: {error}"[:200]) from error


def ground_of(data: bytes, number: int) -> tuple[float, float, float]:
    """Latitude and longitude of the middle of a whole TIFF, and its millimetres a pixel on the ground; NaN if unknown.

    Args:
        number: of its page, counted from 1.
    """
    if any(mark in data for mark in GEO_KEYS):
        quiet = np.errstate(all="ignore")  # of absurd tags
        with quiet, contextlib.suppress(OSError, UnreadableImage), _page_in(io.BytesIO(data), "", number) as page:
            width, height = int(page.imagewidth), int(page.imagelength)
            return *place_of(page, width / 2, height / 2), mm_per_px_of(page, 0, 0, width, height)
    return math.nan, math.nan, math.nan


def read_window(window: Window) -> Picture:
    """The grey pixels of a window; the orientation of the file is not applied, so that x and y are those of the file.

    Raises:
        UnreadableImage: damaged in this window, or of a layout that cannot be read by window.
        OSError: storage does not deliver it.
    """
    with _page(window.file) as page:
        kind = tiff.kind_of(page)
        if window.x + window.w > page.imagewidth or window.y + window.h > page.imagelength:
            raise UnreadableImage(f"the image has only {page.imagewidth}x{page.imagelength} px now")
        if page.dtype is None or page.dtype.kind not in "uf" or (page.dtype.kind == "u" and page.dtype.itemsize > 2):
            raise UnreadableImage(f"a TIFF of {page.dtype} pixels is not read by window: save it in 8 or 16 bits")
        samples_HWS = np.zeros((window.h, window.w, int(page.samplesperpixel)), page.dtype)
        is_planar = tiff.is_planar(page)
        for number in _segments(page, window, is_planar=is_planar):
            _fill(samples_HWS, page, number, window, is_planar=is_planar)
        grey_HW, hidden_HW = tiff.grey_of(page, samples_HWS, kind)
        latitude, longitude = place_of(page, window.x + window.w / 2, window.y + window.h / 2)
        mm_per_px = mm_per_px_of(page, *window[1:])
    return Picture(grey_HW, hidden_HW, place=(latitude, longitude, math.nan), mm_per_px=mm_per_px)


def places_in(image: str, x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes [degrees, WGS 84] of places in a TIFF or a window of one; NaN where they are unknown.

    Args:
        x_N, y_N: from the upper left corner of the image as it is scored [px], float (N,).
    """
    excerpt, nowhere_N = excerpt_of(image), np.full(len(x_N), math.nan)
    is_whole = excerpt is None and bool(re.search(TIFF_NAME, image)) and not archive.split_entry(image)
    if not is_whole and not isinstance(excerpt, Window):
        return nowhere_N, nowhere_N
    file, left, top = (excerpt.file, excerpt.x, excerpt.y) if isinstance(excerpt, Window) else (image, 0, 0)
    with contextlib.suppress(OSError, UnreadableImage, StorageError), _page(file) as page:
        orientation = page.tags.get("Orientation")
        if isinstance(excerpt, Window) or orientation is None or orientation.value == 1:  # pixels are not turned
            return places_of(page, x_N + left, y_N + top)
    return nowhere_N, nowhere_N


def _segments(page: Any, window: Window, *, is_planar: bool) -> Iterator[int]:
    """Numbers of the strips or tiles that a window touches."""
    height = int(page.tilelength if page.is_tiled else page.rowsperstrip)
    width = int(page.tilewidth if page.is_tiled else page.imagewidth)
    height = min(height, int(page.imagelength))
    one = height * width * page.dtype.itemsize * (1 if is_planar else int(page.samplesperpixel))
    if one > MAX_SEGMENT_BYTES:
        raise UnreadableImage(
            f"its strips decode to {one:,} bytes, over the limit of {MAX_SEGMENT_BYTES:,}: save it in tiles (COG)"
        )
    across, down = -(-int(page.imagewidth) // width), -(-int(page.imagelength) // height)
    for plane in range(int(page.samplesperpixel) if is_planar else 1):
        for row in range(window.y // height, -(-(window.y + window.h) // height)):
            for column in range(window.x // width, -(-(window.x + window.w) // width)):
                yield (plane * down + row) * across + column


def _fill(samples_HWS: np.ndarray, page: Any, number: int, window: Window, *, is_planar: bool) -> None:
    """Copy the part of a window that one strip or tile covers; a tile that the file leaves out is black."""
    offset, n_bytes = page.dataoffsets[number], page.databytecounts[number]
    if not n_bytes:
        return
    page.parent.filehandle.seek(offset)
    data = page.parent.filehandle.read(n_bytes)
    if len(data) < n_bytes:
        raise UnreadableImage(f"damaged TIFF: {n_bytes - len(data)} of {n_bytes} bytes of this window are missing")
    try:
        segment, (plane, _, y, x, _), shape = page.decode(
            data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader
        )
    except Exception as error:  # each codec raises errors of its own on damaged bytes
        raise UnreadableImage(f"damaged TIFF in this window: {type(error).__name__}: {error}"[:200]) from error
    height, width = shape[1:3]
    top, left = max(y, window.y), max(x, window.x)
    bottom, right = min(y + height, window.y + window.h), min(x + width, window.x + window.w)
    part_hwS = segment[0, top - y : bottom - y, left - x : right - x]
    rows, columns = slice(top - window.y, bottom - window.y), slice(left - window.x, right - window.x)
    if is_planar:
        samples_HWS[rows, columns, plane] = part_hwS[..., 0]
    else:
        samples_HWS[rows, columns] = part_hwS
