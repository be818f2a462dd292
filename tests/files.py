"""What tests of files share: folders, archives, a bucket in memory, storage that fails for a while."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import tifffile

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import MIN_SIDE_PX, decode
from crackvae.storage import fileio, tables
from crackvae.storage.listing import Listing
from crackvae.storage.uris import relative

ODD_NAMES = [
    "with space.jpg",
    "Brücke.jpg",
    "=1+1.jpg",
    "a#b.jpg",
    "100%25.jpg",
    "new\nline.jpg",
    "!first.jpg",
    "ä?b=c.jpg",
]


def put(folder: Path, *names: str, data: bytes = b"pixels") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return str(path)


def names(listing: Listing) -> list[str]:
    return [relative(image, listing.root) for image in listing.images["image"].to_pylist()]


def errors(listing: Listing) -> dict[str, str]:
    return dict(zip(names(listing), listing.images["error"].to_pylist(), strict=True))


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message and "\n" not in message
    return message


def scores(n: int, run: str = "run") -> pa.Table:
    """Rows of a scores table in which only the names mean something."""
    blank = {"string": "", "bool": False, "list<element: float>": [0.5, -0.5]}
    columns = {field.name: [blank.get(str(field.type), 0)] * n for field in tables.SCORES_SCHEMA}
    columns |= {"image": [f"/images/{i}.jpg" for i in range(n)], "tile_scores": [[0.5, -0.5]] * n, "run": [run] * n}
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(tables.SCORES_SCHEMA)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere; for a moment this process is nobody."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def upload(bucket: pafs.FileSystem, key: str, data: bytes = b"pixels") -> None:
    bucket.create_dir(f"bucket/{key}".rpartition("/")[0])
    with bucket.open_output_stream(f"bucket/{key}") as stream:
        stream.write(data)


class Flaky:
    """A file system that fails some times before it answers."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures, self.attempts = list(failures), 0

    def open_input_file(self, path: str) -> pa.NativeFile:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        return pa.BufferReader(b"pixels")


def behind(monkeypatch: pytest.MonkeyPatch, filesystem: Flaky) -> Flaky:
    monkeypatch.setattr(fileio, "filesystem", lambda uri, endpoint=None: (filesystem, "bucket/key"))
    return filesystem


def is_pixels_or_refusal(data: bytes) -> bool:
    """Any exception but UnreadableImage passes through and fails the test."""
    try:
        pixels_HW = decode(data)
    except UnreadableImage as error:
        return bool(str(error)) and "\n" not in str(error)
    return pixels_HW.dtype == np.uint8 and min(pixels_HW.shape) >= MIN_SIDE_PX


def raw_file(grey_HW: np.ndarray) -> bytes:
    """A DNG of a grey scene: an RGGB sensor of 16 bits whose colours are those of sRGB."""
    stream = io.BytesIO()
    rational: list[Any] = [10_000, 10_000] + [0, 10_000] * 3 + [10_000, 10_000] + [0, 10_000] * 3 + [10_000, 10_000]
    tags: list[Any] = [
        (50706, "B", 4, (1, 4, 0, 0), True),  # DNGVersion
        (50708, "s", 0, "drawn", True),  # UniqueCameraModel
        (33421, "H", 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, "B", 4, (0, 1, 1, 2), True),  # CFAPattern
        (50721, "2i", 9, rational, True),  # ColorMatrix1
        (50728, "2I", 3, [1, 1] * 3, True),  # AsShotNeutral
        (50717, "H", 1, 65_535, True),  # WhiteLevel
        (271, "s", 0, "drawn", True),
        (272, "s", 0, "drawn", True),
    ]
    levels_HW = (grey_HW.astype(np.uint16)) * 257
    tifffile.imwrite(stream, levels_HW, photometric=32803, extratags=tags, metadata=None)
    return stream.getvalue()
