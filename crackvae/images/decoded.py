"""From listed images to rows of decoded tiles. No Ray."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.errors import UnreadableImage
from crackvae.images import decoding
from crackvae.images.tiles import Grid, Tiling, grid_of, resized
from crackvae.storage import fileio, prefetch, tables, uris

# Decoded tiles that wait for the network: 16 MB at 128 px, and a whole number of passes for common batches.
WAITING_TILES = 1024


# Decoded pixels that wait to be resized together: 20 METU images, and of photographs one at a time.
WAITING_PX = 1_000_000


NO_TILES = np.empty(0, np.uint8)


# Measured while decoding.
CAMERA = ("brightness", "contrast", "sharpness")
MEASURED = (*CAMERA, "clipped")


# What decode_images() adds to the rows of a listing, for score_decoded() to use up.
DECODED_SCHEMA = pa.schema(
    [
        *(tables.SCORES_SCHEMA.field(name) for name in ("image", "group", "status", "error", "width", "height")),
        *(tables.SCORES_SCHEMA.field(name) for name in ("bytes", "modified", "rows", "cols")),
        ("xs", pa.list_(pa.int32())),
        ("ys", pa.list_(pa.int32())),
        ("tiles", pa.large_binary()),  # uint8 (rows * cols, P, P)
        *(tables.MEASURED_SCHEMA.field(name) for name in MEASURED),
    ]
)


# ------------------------------------------------------------------------------------ from listing to scores


def decode_images(
    images: pa.Table, tiling: Tiling, read: Callable[[str], bytes] = fileio.read_image
) -> Iterator[pa.Table]:
    """Read, decode and cut images; whatever happens, each is one row of DECODED_SCHEMA.

    Args:
        images: LISTING_SCHEMA and group; with sha256, an image with other bytes is unreadable.
        read: bytes of an image; raises OSError or UnreadableImage.

    Yields:
        tables of about WAITING_TILES tiles, in the order of `images`.
    """
    rows: list[dict[str, Any]] = []
    uncut: list[tuple[dict[str, Any], np.ndarray, Grid]] = []
    n_tiles = n_px = 0
    listed = images.to_pylist()
    asked_for = [(image["image"], image["bytes"]) for image in listed if not image["error"]]
    with prefetch.read_ahead(asked_for, read) as next_bytes:
        for image in listed:
            rows.append(_blank_row(image))
            decoded = _decode_image(image, rows[-1], tiling, next_bytes)
            if decoded:
                uncut.append((rows[-1], *decoded))
                n_px += decoded[0].size
                n_tiles += rows[-1]["rows"] * rows[-1]["cols"]
                del decoded  # the pixels of a photograph must not wait for those of the next one
            if n_px >= WAITING_PX or n_tiles >= WAITING_TILES:
                _cut(uncut, tiling.input_px)
                uncut, n_px = [], 0
            if n_tiles >= WAITING_TILES:
                yield _decoded_table(rows)
                rows, n_tiles = [], 0
    _cut(uncut, tiling.input_px)
    if rows:
        yield _decoded_table(rows)


def _blank_row(image: dict[str, Any]) -> dict[str, Any]:
    """The row of a listed image of which nothing is known yet."""
    row = {name: image[name] for name in ("image", "group", "bytes", "modified", "error")} | dict.fromkeys(
        MEASURED, np.nan
    )
    return row | {
        "status": "unreadable",
        "width": 0,
        "height": 0,
        "rows": 0,
        "cols": 0,
        "xs": (),
        "ys": (),
        "tiles": NO_TILES,
    }


def _decode_image(
    image: dict[str, Any], row: dict[str, Any], tiling: Tiling, read: Callable[[str], bytes]
) -> tuple[np.ndarray, Grid] | None:
    """Fill in the row of an image, all but its tiles; its pixels and where they are to be cut, if it has any."""
    if row["error"]:
        return None
    try:
        data = read(image["image"])
        if image.get("sha256", "") not in ("", hashlib.sha256(data).hexdigest()):
            raise UnreadableImage("it was replaced: its bytes are not those that the manifest was made from")
        pixels_HW = decoding.decode(data)
        height, width = pixels_HW.shape
        row |= {"height": height, "width": width}
        grid = grid_of(height, width, tiling.tile_px, tiling.stride_px)
    except UnreadableImage as error:
        row["error"] = str(error)
        return None
    except OSError as error:
        row |= {"status": "unreachable", "error": uris.reason(error)}
        return None
    row |= {"status": "scored", "rows": grid.rows, "cols": grid.cols, "xs": grid.xs, "ys": grid.ys}
    row |= vars(decoding.measures(pixels_HW))
    return pixels_HW, grid


def _cut(uncut: list[tuple[dict[str, Any], np.ndarray, Grid]], input_px: int) -> None:
    """Fill in the tiles of some rows; images of one size are the faster together."""
    squares = [grid.squares(pixels_HW) for _, pixels_HW, grid in uncut]
    tiles_TPP = resized(list(itertools.chain.from_iterable(squares)), input_px)
    start = 0
    for (row, _, _), of_row in zip(uncut, squares, strict=True):
        row["tiles"] = tiles_TPP[start : start + len(of_row)].reshape(-1)
        start += len(of_row)


def _decoded_table(rows: list[dict[str, Any]]) -> pa.Table:
    """DECODED_SCHEMA; the tiles are copied once, where Arrow's own conversion would copy them three times."""
    tiles = [row.pop("tiles") for row in rows]
    ends_N = np.cumsum([0, *(len(one) for one in tiles)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends_N), pa.py_buffer(np.concatenate(tiles))]
    without = pa.Table.from_pylist(rows, schema=DECODED_SCHEMA.remove(DECODED_SCHEMA.get_field_index("tiles")))
    column = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
    return without.append_column("tiles", column).select(DECODED_SCHEMA.names)


def tiles_of(decoded: pa.Table, side: int) -> np.ndarray:
    """All tiles of DECODED_SCHEMA rows, uint8 (T, P, P), read-only and not copied."""
    column = decoded["tiles"].combine_chunks()
    _, ends, pixels = column.buffers()
    ends_N = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(pixels, np.uint8)[ends_N[0] : ends_N[-1]].reshape(-1, side, side)
