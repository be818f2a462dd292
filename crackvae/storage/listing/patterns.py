"""Wildcards in a path: `*`, `?`, `[...]` within a name, and `**` for any number of folders.

A name with such characters that exists as it is written is meant literally, wherever in the path it stands.
"""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence

import pyarrow.fs as pafs

from crackvae.storage import fileio
from crackvae.storage.filesystems import answered, filesystem
from crackvae.storage.listing.exclusions import LINK_LOOP, UNREADABLE_FOLDER
from crackvae.storage.listing.walk import Folder, SkippedFolder, is_folder, utf_8
from crackvae.storage.names.unicode_forms import existing_form, nfc
from crackvae.storage.uris import is_local, join, split_uri, storage_errors, without_options

_WILDCARD = re.compile(r"[*?\[]")

# In place of the entries of a folder that cannot be read; no name of a file contains a slash.
UNREADABLE = "/"


def split_pattern(path: str) -> tuple[str, tuple[str, ...]]:
    """The part of a path before its first wildcard, and the names after it; no names if there is no wildcard."""
    bare, options = without_options(path)
    if not _WILDCARD.search(bare) or fileio.exists(path):
        return existing_form(path), ()
    start = "/" if is_local(path) else split_uri(path)[0]
    root, *parts = [start.rstrip("/"), *bare.removeprefix(start).strip("/").split("/")]
    while parts:
        below = existing_form(f"{root}/{parts[0]}{options}")
        if _WILDCARD.search(parts[0]) and not fileio.exists(below):
            break
        root = without_options(below)[0]
        parts.pop(0)
    return (root or "/") + options, tuple(parts)


def matches(folder: str, pattern: Sequence[str]) -> Iterator[str | SkippedFolder]:
    """Paths that match a pattern. A wildcard matches no name that starts with a dot; `**` any folders or none."""
    names = [nfc(name) for name in pattern]
    if not is_local(folder):
        yield from _matches(folder, names)
    elif os.path.isdir(folder):
        with storage_errors("list", folder):
            os.scandir(folder).close()  # below it, a folder that cannot be read is counted
        yield from _matches(Folder.root(folder), names)


def _matches(folder: Folder | str, pattern: Sequence[str]) -> Iterator[str | SkippedFolder]:
    name, rest = pattern[0], pattern[1:]
    if name == "**" and rest:
        yield from _matches(folder, rest)
    entries = list(_entries(folder))
    is_literal = any(entry == name for entry, *_ in entries)
    for entry, path, below in entries:
        if not (entry == name if is_literal else _fits(entry, name)):
            continue
        if isinstance(below, SkippedFolder):
            yield below
        elif not rest:
            yield path
        elif below:
            yield from _matches(below, pattern if name == "**" else rest)


def _fits(entry: str, name: str) -> bool:
    if entry == UNREADABLE:
        return True
    return fnmatch.fnmatchcase(entry, name) and (name.startswith(".") or not entry.startswith("."))


Below = Folder | str | SkippedFolder | None  # a folder to look into; None for a file


def _entries(folder: Folder | str) -> Iterator[tuple[str, str, Below]]:
    """Name (NFC) and path of everything in a folder, and the folder to look into, if it is one."""
    if isinstance(folder, str):
        with storage_errors("list", folder):
            store, key = filesystem(folder)
            infos = answered(store.get_file_info, pafs.FileSelector(key, allow_not_found=True))
        for info in infos:
            path = join(folder, info.base_name)
            if info.path.rstrip("/") == key or info.base_name in ("", ".", ".."):  # which pyarrow cannot list
                yield UNREADABLE, path, SkippedFolder(path, UNREADABLE_FOLDER)
                continue
            yield nfc(info.base_name), path, path if info.type == pafs.FileType.Directory else None
        return
    try:
        with os.scandir(folder.path) as entries:
            for entry in entries:
                below: Below = None
                if is_folder(entry):
                    below = folder.child(entry) or SkippedFolder(utf_8(entry.path), LINK_LOOP)
                yield nfc(entry.name), entry.path, below
    except OSError:
        yield UNREADABLE, folder.path, SkippedFolder(utf_8(folder.path), UNREADABLE_FOLDER)
