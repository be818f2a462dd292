"""Pages of TIFF files: page 2 of `scan.tif` is the image `scan.tif!/page=2`; page 1 keeps the name of the file."""

import io
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import ArchiveError, UnreadableImage
from crackvae.storage import archive
from crackvae.storage.fileio import MAX_IMAGE_BYTES, parse_file
from crackvae.storage.uris import is_local

# Of a path or URI, for pyarrow.
TIFF_NAME = r"(?i)\.tiff?(\?.*)?$"

# Pages of one file; a longer chain is damaged or hostile, and is refused as one image.
MAX_PAGES = 1_000

# Remote files whose headers are read at once.
READ_THREADS = 16

NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255


class Stream(Protocol):
    """An open file."""

    def seek(self, position: int, /) -> object:
        """Go to a byte."""

    def read(self, n_bytes: int, /) -> bytes:
        """The next bytes."""


def full_pages(stream: Stream) -> list[int]:
    """Numbers of the pages of a TIFF, from 1, without thumbnails, reduced copies and masks; [1] for any other file."""
    try:
        kinds = list(_subfile_kinds(stream))
    except (struct.error, OverflowError):  # truncated: decoding the first page will say so
        return [1]
    if not kinds or kinds[0] or len(kinds) > MAX_PAGES:
        return [1]  # decoding refuses a chain that is too long
    return [number for number, kind in enumerate(kinds, start=1) if not kind]


def require_few_pages(stream: Stream) -> None:
    """Raise UnreadableImage for a TIFF of more than MAX_PAGES: as one image it would lose all pages but the first."""
    try:
        n_pages = sum(1 for _ in _subfile_kinds(stream))
    except (struct.error, OverflowError):  # truncated: decoding will say so
        return
    if n_pages > MAX_PAGES:
        raise UnreadableImage(f"it has more than {MAX_PAGES:,} pages: split it into several files")


def _subfile_kinds(stream: Stream) -> Iterator[int]:
    """For each page 0, or another number if it is a reduced copy or a mask."""
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        return
    version = struct.unpack(f"{order}H", start[2:4])[0]
    if version not in (42, 43):
        return
    offset_kind, count_kind, entry_bytes, at = ("Q", "Q", 20, 8) if version == 43 else ("I", "H", 12, 4)
    offset = struct.unpack(f"{order}{offset_kind}", start[at : at + struct.calcsize(offset_kind)])[0]
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) <= MAX_PAGES:
        seen.add(offset)
        stream.seek(offset)
        n_entries = struct.unpack(f"{order}{count_kind}", stream.read(struct.calcsize(f"={count_kind}")))[0]
        if n_entries > 65_535:
            return
        data = stream.read(n_entries * entry_bytes + struct.calcsize(offset_kind))
        offset = struct.unpack(f"{order}{offset_kind}", data[n_entries * entry_bytes :])[0]
        yield _subfile_kind(data, order, n_entries, entry_bytes)


def _subfile_kind(entries: bytes, order: str, n_entries: int, entry_bytes: int) -> int:
    for start in range(0, n_entries * entry_bytes, entry_bytes):
        tag, kind = struct.unpack(f"{order}HH", entries[start : start + 4])
        if tag in (NEW_SUBFILE_TYPE, SUBFILE_TYPE):
            at, size = start + (12 if entry_bytes == 20 else 8), 2 if kind == 3 else 4
            number = int(struct.unpack(f"{order}{'H' if kind == 3 else 'I'}", entries[at : at + size])[0])
            return number & 0b101 if tag == NEW_SUBFILE_TYPE else int(number == 2)
    return 0


def with_pages(images: pa.Table) -> pa.Table:
    """A listing with a row for each further page of its TIFF files, sorted by name.

    Args:
        images: LISTING_SCHEMA.
    """
    is_tiff = pc.and_(pc.match_substring_regex(images["image"], TIFF_NAME), pc.equal(images["error"], ""))
    if not pc.any(is_tiff).as_py():
        return images
    tiffs = images.filter(is_tiff)
    names = tiffs["image"].to_pylist()
    if all(is_local(name) for name in names):
        pages = [_pages_of(name) for name in names]
    else:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            pages = list(pool.map(_pages_of, names))
    further = [(row, page) for row, numbers in enumerate(pages) for page in numbers[1:]]
    if not further:
        return images
    rows = tiffs.take(pa.array([row for row, _ in further], pa.int64()))
    named = pa.array([f"{names[row]}!/page={page}" for row, page in further], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("image"), "image", named)
    return sorted_once(pa.concat_tables([images, rows]))


def sorted_once(images: pa.Table) -> pa.Table:
    """A listing in order of name, each name once."""
    images = images.take(pc.sort_indices(images["image"])).combine_chunks()
    names = images["image"]
    if images.num_rows > 1:
        again = pc.equal(names.slice(1), names.slice(0, len(names) - 1))
        if pc.any(again).as_py():
            images = images.filter(pa.chunked_array([[True], *pc.invert(again).chunks]))
    return images


def _pages_of(path: str) -> list[int]:
    entry = archive.split_entry(path)
    try:
        if entry:
            return full_pages(io.BytesIO(archive.read_entry(*entry, MAX_IMAGE_BYTES)))
        return parse_file(path, full_pages)
    except (OSError, pa.ArrowException, ArchiveError, UnreadableImage):  # reading the image will say why
        return [1]
