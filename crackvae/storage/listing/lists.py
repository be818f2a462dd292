"""Lists of images, `@FILE`: a text file with one image a line, or a CSV or Parquet table with a column of them."""

import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from crackvae.errors import ArchiveError, ConfigError, StorageError
from crackvae.storage import archive
from crackvae.storage.archive import File
from crackvae.storage.fileio import read_bytes
from crackvae.storage.listing.walk import CHUNK_ROWS, chunks, local_file, remote_file
from crackvae.storage.names.shards import Shard, is_in_shard
from crackvae.storage.names.unicode_forms import existing_form, nfc
from crackvae.storage.tables.inventory import COLUMNS, read_inventory
from crackvae.storage.uris import absolute, is_local, join, parent, reason, storage_errors, without_options

# Objects of a list that are looked up at once; each request takes 10 to 50 ms.
HEAD_THREADS = 32

# A URI that absolute() leaves as it is, which takes a tenth of its time.
_PLAIN_URI = re.compile(r"s3://[a-z0-9.-]+(?:/[\w. -]+)+", re.ASCII)


class Named(NamedTuple):
    """An image as a list names it, with its size and time [µs since 1970] where the list says them."""

    image: str
    n_bytes: int | None = None
    modified_us: int | None = None

    @property
    def is_known_object(self) -> bool:
        """Whether the list says all about an object; a file of a disk is looked at, which costs nothing."""
        return self.n_bytes is not None and self.modified_us is not None and not is_local(self.image)


def listed_files(path: str, shard: Shard | None, is_left: Callable[[str, int], bool]) -> Iterator[File | None]:
    """The images that a list names, each with its size and time; a relative name is relative to the list's folder.

    Objects whose size and time the list says are not looked up.

    Args:
        shard: None stands for an image of another shard that `is_left`.
        is_left: by name and time [us]; the time is 0 where the list does not say it.

    Raises:
        StorageError: the list cannot be read; ConfigError: it contains something that is not a path.
    """
    ending = without_options(path)[0].lower().rpartition(".")[2]
    named = {"parquet": _parquet_names, "csv": _csv_names, "tsv": _csv_names}.get(ending, _text_names)(path)
    folder = parent(path)
    archives: dict[str, dict[str, File]] = {}  # by name in NFC

    def find(one: Named) -> File:
        file = archive.file_of(one.image)
        found, part = found_file(one._replace(image=file)), one.image.removeprefix(file)
        return found._replace(image=f"{found.image}{part}")  # a page, a window or a frame of it

    def found_file(one: Named) -> File:
        name = one.image
        entry = archive.split_entry(name)
        if entry:
            return archives[entry[0]].get(nfc(name), File(name))
        if one.is_known_object:
            return File(name, one.n_bytes or 0, one.modified_us or 0)
        with storage_errors("look at", name):
            name = existing_form(name)
            if not is_local(name):
                return remote_file(name)
            return local_file(name) if os.path.lexists(name) else File(name)

    with ThreadPoolExecutor(HEAD_THREADS) as pool:
        for number, chunk in enumerate(chunks(named)):
            try:
                whole = [one if _PLAIN_URI.fullmatch(one.image) else _whole(one, folder) for one in chunk]
            except ConfigError as error:
                raise ConfigError(f"@{path}, from line {number * CHUNK_ROWS + 1} on: {error}") from error
            own, n_left = list[Named](), 0
            for one in whole:
                if not shard or is_in_shard(archive.file_of(one.image), shard):
                    own.append(one)
                else:
                    n_left += is_left(one.image, one.modified_us or 0)
            yield from itertools.repeat(None, n_left)
            entries = map(archive.split_entry, (one.image for one in own))
            for found in {entry[0] for entry in entries if entry} - archives.keys():
                archives[found] = {nfc(file.image): file for file in _entries(found)}
            needs_requests = any(not one.is_known_object and not is_local(one.image) for one in own)
            yield from pool.map(find, own) if needs_requests else map(find, own)


def _entries(path: str) -> list[File]:
    """Entries of an archive; none of one of a disk that cannot be opened, as reading its images will say."""
    try:
        return archive.entries(path)
    except (ArchiveError, StorageError) as error:
        if not is_local(path) and not isinstance(error, ArchiveError):  # a store may answer another time
            raise
        return []


def _whole(one: Named, folder: str) -> Named:
    name = one.image if not is_local(one.image) or os.path.isabs(one.image) else join(folder, one.image)
    return one._replace(image=absolute(name, is_listed=True))


def _text_names(path: str) -> Iterator[Named]:
    return (Named(line.rstrip("\r")) for line in _text(path).split("\n") if line.strip())


def _csv_names(path: str) -> Iterator[Named]:
    """The names in the column of images; one name a line where there is a single column without such a title."""
    text = _text(path)
    first_line = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count))
    try:
        titles = [title.strip().lower() for title in next(rows, [])]
        number = next((titles.index(name) for name in COLUMNS["image"] if name in titles), None)
        if number is not None:
            return iter([Named(row[number]) for row in rows if len(row) > number and row[number].strip()])
    except csv.Error as error:
        raise StorageError(f"{path} is not a CSV file ({reason(error)}): write one image a line.") from error
    if len(titles) > 1:
        names = " or ".join(COLUMNS["image"])
        raise StorageError(f"{path} has no column {names}: give one this name, or write one image a line.")
    return _text_names(path)


def _text(path: str) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not text in UTF-8 ({reason(error)}): write one image a line.") from error


def _parquet_names(path: str) -> Iterator[Named]:
    for rows in read_inventory(path):
        nothing = itertools.repeat(None)
        sizes = rows["bytes"].to_pylist() if "bytes" in rows.column_names else nothing
        times = rows["modified"].cast(pa.int64()).to_pylist() if "modified" in rows.column_names else nothing
        yield from (Named(*one) for one in zip(rows["image"].to_pylist(), sizes, times, strict=False) if one[0])
