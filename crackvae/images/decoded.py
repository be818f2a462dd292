"""From listed images to rows of decoded tiles. No Ray.

Shape letters: N images, T tiles of all of them in order, P side of a tile at the model's input [px].
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import UnreadableImage
from crackvae.images import decoding, surface
from crackvae.images.decoding.windows import ground_of
from crackvae.images.metadata import Metadata, read_metadata
from crackvae.images.metadata.optics import focal_in_px
from crackvae.images.pictures import read_excerpt
from crackvae.images.tiles import Grid, Tiling, grid_of, resized
from crackvae.storage import archive, fileio, prefetch, tables, uris
from crackvae.storage.content import content_key
from crackvae.storage.names.excerpts import excerpt_of
from crackvae.storage.tables.measures import MEASURED_SCHEMA

# Decoded tiles passed to the network at once: 16 MB at 128 px, and a multiple of common batch sizes.
WAITING_TILES = 1024

# Decoded pixels resized together: 20 METU images, or one photograph.
WAITING_PX = 1_000_000

NO_TILES = np.empty(0, np.uint8)

# Measured while decoding.
CAMERA = ("brightness", "contrast", "sharpness")
MEASURED = (*CAMERA, "clipped")

# Fields of the metadata that are columns.
METADATA = ("taken", "taken_is_local", "lat", "lon", "alt_m", "heading_deg", "camera", "focal_mm")

# What the scale of a photograph can be computed from; not in any table.
OPTICS = ("focal_px", "focal_sigma", "range_m", "height_m", "mm_per_px")

# What decode_images() makes of the rows of a listing, as input of score_decoded().
DECODED_SCHEMA = pa.schema(
    [
        *(tables.SCORES_SCHEMA.field(name) for name in ("image", "group", "status", "error", "width", "height")),
        *(tables.SCORES_SCHEMA.field(name) for name in ("bytes", "modified", "content", "rows", "cols")),
        ("xs", pa.list_(pa.int32())),
        ("ys", pa.list_(pa.int32())),
        ("blank", pa.list_(pa.int32())),  # numbers of the tiles that show no surface and get no score
        ("hidden", pa.large_binary()),  # surface.packed(): parts that show no surface
        ("tiles", pa.large_binary()),  # uint8 (rows * cols, P, P)
        *(MEASURED_SCHEMA.field(name) for name in (*MEASURED, *METADATA)),
        *((name, pa.float64()) for name in OPTICS),
    ]
)


# ------------------------------------------------------------------------------------ from listing to scores


def decode_images(
    images: pa.Table,
    tiling: Tiling,
    read: Callable[[str], bytes] = fileio.read_image,
    max_px: int = decoding.MAX_IMAGE_PX,
) -> Iterator[pa.Table]:
    """Read, decode and cut images; whatever happens, each is one row of DECODED_SCHEMA.

    Args:
        images: LISTING_SCHEMA and group; with sha256, an image with other bytes is unreadable.
        read: bytes of an image; raises OSError or UnreadableImage.
        max_px: larger images are unreadable.

    Yields:
        tables of about WAITING_TILES tiles, in the order of `images`.
    """
    rows: list[dict[str, Any]] = []
    uncut: list[tuple[dict[str, Any], list[np.ndarray]]] = []
    n_tiles = n_px = 0
    listed = images.to_pylist()
    whole = [image for image in listed if not image["error"] and not excerpt_of(image["image"])]
    asked_for = [(image["image"], image["bytes"]) for image in whole]
    with prefetch.read_ahead(asked_for, read) as next_bytes:
        for image in listed:
            rows.append(_blank_row(image))
            squares = _decode_image(image, rows[-1], tiling, next_bytes, max_px)
            if squares:
                uncut.append((rows[-1], squares))
                n_px += rows[-1]["width"] * rows[-1]["height"]
                n_tiles += len(squares)
            del squares  # views of the pixels of a photograph, freed before the next one is decoded
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
    """The row of a listed image before it is decoded."""
    row = {name: image[name] for name in ("image", "group", "bytes", "modified", "error")} | dict.fromkeys(
        MEASURED, np.nan
    )
    return (
        row
        | _columns_of(Metadata(), 0, 0)
        | {
            "status": "unreadable",
            "content": "",
            "width": 0,
            "height": 0,
            "rows": 0,
            "cols": 0,
            "xs": (),
            "ys": (),
            "blank": (),
            "hidden": b"",
            "tiles": NO_TILES,
        }
    )


def _columns_of(metadata: Metadata, height: int, width: int) -> dict[str, Any]:
    """METADATA and OPTICS of an image of this size."""
    focal_px, focal_sigma = focal_in_px(metadata, width, height)
    optics = (focal_px, focal_sigma, metadata.range_m, metadata.height_m, np.nan)
    return {name: getattr(metadata, name) for name in METADATA} | dict(zip(OPTICS, optics, strict=True))


def _on_ground(data: bytes, page: int) -> dict[str, float]:
    """Columns of a GeoTIFF: the place of its middle and its scale; none of a TIFF without a geotransform."""
    lat, lon, mm_per_px = ground_of(data, page)
    of_place = {} if math.isnan(lat) else {"lat": lat, "lon": lon}
    return of_place | {"mm_per_px": mm_per_px}


def _decode_image(
    image: dict[str, Any], row: dict[str, Any], tiling: Tiling, read: Callable[[str], bytes], max_px: int
) -> list[np.ndarray]:
    """Fill in the row of an image, all but its tiles; the image content of each tile, if there is anything to score."""
    if row["error"]:
        return []
    try:
        excerpt = excerpt_of(image["image"])
        if excerpt:
            picture = read_excerpt(excerpt, max_px)
            row |= dict(zip(("lat", "lon", "alt_m", "mm_per_px"), (*picture.place, picture.mm_per_px), strict=True))
            row |= {"taken": picture.taken, "taken_is_local": picture.taken is not None}
        else:
            data = read(image["image"])
            row["content"] = content_key(data)
            if image.get("sha256", "") not in ("", hashlib.sha256(data).hexdigest()):
                raise UnreadableImage("it was replaced: its bytes are not those that the manifest was made from")
            page = archive.page_of(image["image"])
            picture = decoding.decode_picture(data, page, max_px)
            row |= _columns_of(read_metadata(data), *picture.pixels_HW.shape)
            if data[:4] in decoding.TIFF_STARTS:
                row |= _on_ground(data, page)
    except UnreadableImage as error:
        row["error"] = str(error)
        return []
    except OSError as error:
        row |= {"status": "unreachable", "error": uris.reason(error)}
        return []
    return _squares(picture, row, tiling)


def _squares(picture: decoding.Picture, row: dict[str, Any], tiling: Tiling) -> list[np.ndarray]:
    """Fill in the row of a decoded image, all but its tiles; the image content of each tile, if there is any."""
    height, width = picture.pixels_HW.shape
    row |= {"height": height, "width": width}
    try:
        grid = grid_of(height, width, tiling.tile_px, tiling.stride_px)
    except UnreadableImage as error:
        row["error"] = str(error)
        return []
    if picture.problem:
        row |= {"status": "no_surface", "error": picture.problem}
        return []
    return _surface_tiles(row, picture, grid)


def decoded_picture(image: dict[str, Any], picture: decoding.Picture, metadata: Metadata, tiling: Tiling) -> pa.Table:
    """What decode_images() makes of an image whose pixels are at hand: DECODED_SCHEMA, one row."""
    row = _blank_row(image) | _columns_of(metadata, *picture.pixels_HW.shape)
    squares = _squares(picture, row, tiling)
    if squares:
        _cut([(row, squares)], tiling.input_px)
    return _decoded_table([row])


def _surface_tiles(row: dict[str, Any], picture: decoding.Picture, grid: Grid) -> list[np.ndarray]:
    """The image content of each tile, without what shows no surface; none if no tile shows one."""
    pixels_HW = picture.pixels_HW
    hidden_HW = surface.hidden_parts(pixels_HW, picture.hidden_HW)
    squares = grid.squares(pixels_HW)
    hidden = [None] * len(squares) if hidden_HW is None else grid.squares(hidden_HW)
    is_blank_T = [surface.is_blank(square, part) for square, part in zip(squares, hidden, strict=True)]
    row |= vars(surface.measures(pixels_HW)) | {"clipped": surface.clipped_share(pixels_HW, hidden_HW)}
    if all(blank or surface.is_flat(square) for blank, square in zip(is_blank_T, squares, strict=True)):
        row |= {"status": "no_surface", "error": surface.no_surface(pixels_HW, hidden_HW, squares)}
        return []
    row |= {"status": "scored", "rows": grid.rows, "cols": grid.cols, "xs": grid.xs, "ys": grid.ys}
    row |= {"blank": np.flatnonzero(is_blank_T), "hidden": surface.packed(hidden_HW)}
    return [surface.filled(square, part) for square, part in zip(squares, hidden, strict=True)]


def _cut(uncut: list[tuple[dict[str, Any], list[np.ndarray]]], input_px: int) -> None:
    """Fill in the tiles of some rows; images of one size are resized together, which is faster."""
    tiles_TPP = resized(list(itertools.chain.from_iterable(squares for _, squares in uncut)), input_px)
    start = 0
    for row, of_row in uncut:
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


def tiles_per_image(decoded: pa.Table) -> np.ndarray:
    """Number of tiles of each image, with those that show no surface, int (N,)."""
    return np.asarray(decoded["rows"].to_numpy() * decoded["cols"].to_numpy())


def surface_counts(decoded: pa.Table) -> np.ndarray:
    """Number of tiles of each image that show a surface, int (N,)."""
    return np.asarray(tiles_per_image(decoded) - pc.list_value_length(decoded["blank"]).to_numpy())


def first_tiles(decoded: pa.Table) -> np.ndarray:
    """Position of the first tile of each image among those of all images, int (N,)."""
    return np.cumsum([0, *tiles_per_image(decoded)[:-1]])


def blank_tiles(decoded: pa.Table) -> list[int]:
    """Positions of the tiles that show no surface among those of all images."""
    of_images = zip(first_tiles(decoded).tolist(), decoded["blank"].to_pylist(), strict=True)
    return [first + number for first, blank in of_images for number in blank]
