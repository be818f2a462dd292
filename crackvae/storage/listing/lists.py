"""Lists of images, `@FILE`: a text file with one image a line, or a Parquet table with a column of them."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from crackvae.errors import ConfigError, StorageError
from crackvae.storage import archive, tables
from crackvae.storage.archive import File
from crackvae.storage.fileio import read_bytes
from crackvae.storage.listing.walk import CHUNK_ROWS, chunks, local_file, remote_file
from crackvae.storage.names.unicode_forms import existing_form, nfc
from crackvae.storage.uris import absolute, is_local, join, parent, reason, storage_errors, without_options

# Objects of a list that are looked up at once; each request takes 10 to 50 ms.
HEAD_THREADS = 32

# Columns of a Parquet list that may contain the images; the first one found is used.
LIST_COLUMNS = ("image", "uri", "path", "file")


def listed_files(path: str) -> Iterator[File]:
    """The images that a list names, each with its size and time; a relative name is relative to the list's folder.

    Raises:
        StorageError: the list cannot be read; ConfigError: it contains something that is not a path.
    """
    names = _parquet_names(path) if without_options(path)[0].endswith(".parquet") else _text_names(path)
    folder = parent(path)
    archives: dict[str, dict[str, File]] = {}  # by name in NFC

    def find(name: str) -> File:
        entry = archive.split_entry(name)
        if entry:
            return archives[entry[0]].get(nfc(name), File(name))
        with storage_errors("look at", name):
            name = existing_form(name)
            if not is_local(name):
                return remote_file(name)
            return local_file(name) if os.path.lexists(name) else File(name)

    with ThreadPoolExecutor(HEAD_THREADS) as pool:
        for number, chunk in enumerate(chunks(names)):
            try:
                whole = [
                    absolute(one if not is_local(one) or os.path.isabs(one) else join(folder, one), is_listed=True)
                    for one in chunk
                ]
            except ConfigError as error:
                raise ConfigError(f"@{path}, from line {number * CHUNK_ROWS + 1} on: {error}") from error
            for found in {entry[0] for entry in map(archive.split_entry, whole) if entry} - archives.keys():
                archives[found] = {nfc(file.image): file for file in archive.entries(found)}
            if all(is_local(one) for one in whole):
                yield from map(find, whole)
            else:
                yield from pool.map(find, whole)


def _text_names(path: str) -> Iterator[str]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not text in UTF-8 ({reason(error)}): write one image a line.") from error
    return (line.rstrip("\r") for line in text.split("\n") if line.strip())


def _parquet_names(path: str) -> Iterator[str]:
    column = tables.text_column(path, LIST_COLUMNS)
    return (name.as_py() for name in column if name.is_valid and name.as_py())
