"""Wildcards in a path: `*`, `?`, `[...]` within a name, and `**` for any number of folders."""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence

import pyarrow.fs as pafs

from crackvae.storage import fileio
from crackvae.storage.filesystems import filesystem, retried
from crackvae.storage.uris import is_local, join, split_uri, storage_errors, without_options


def split_pattern(path: str) -> tuple[str, tuple[str, ...]]:
    """The part of a path before its first wildcard, and the names after it; no names if there is no wildcard.

    A path that exists under this very name is meant literally.
    """
    bare, options = without_options(path)
    start = "/" if is_local(path) else split_uri(path)[0]
    parts = bare.removeprefix(start).strip("/").split("/")
    first = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None or fileio.exists(path):
        return path, ()
    root = "/".join([start.rstrip("/"), *parts[:first]]) or "/"
    return root + options, tuple(parts[first:])


def matches(folder: str, pattern: Sequence[str]) -> Iterator[str]:
    """Paths that match a pattern. A wildcard matches no name that starts with a dot; `**` any folders or none."""
    name, rest = pattern[0], pattern[1:]
    if name == "**" and rest:
        yield from matches(folder, rest)
    for entry, is_folder in _entries(folder):
        if entry.startswith(".") and not name.startswith("."):
            continue
        path = join(folder, entry)
        if name == "**":
            if not rest:
                yield path
            elif is_folder:
                yield from matches(path, pattern)
        elif fnmatch.fnmatchcase(entry, name):
            if not rest:
                yield path
            elif is_folder:
                yield from matches(path, rest)


def _entries(folder: str) -> list[tuple[str, bool]]:
    """Names in one folder, and whether each is a folder."""
    with storage_errors("list", folder):
        if is_local(folder):
            if not os.path.isdir(folder):
                return []
            with os.scandir(folder) as entries:
                return [(entry.name, os.path.isdir(entry.path)) for entry in entries]
        store, key = filesystem(folder)
        infos = retried(store.get_file_info, pafs.FileSelector(key, allow_not_found=True))
        return [(info.base_name, info.type == pafs.FileType.Directory) for info in infos]
