"""Which images a path contains: a folder, an archive, a URI, a pattern, or a list of images.

A listing may contain a million images, so rows go into Arrow columns as they are found: an image costs the bytes of
its name and some 30 more, where a Python object for each would cost 400.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import StorageError
from crackvae.storage import archive, fileio
from crackvae.storage.archive import File
from crackvae.storage.listing.exclusions import OWN, Exclusions, below, is_own, may_be_own
from crackvae.storage.listing.lists import listed_files
from crackvae.storage.listing.patterns import matches, split_pattern
from crackvae.storage.listing.walk import SkippedFolder, chunks, files
from crackvae.storage.names.pages import sorted_once, with_pages
from crackvae.storage.names.shards import Shard, is_in_shard
from crackvae.storage.names.unicode_forms import existing_form, nfc
from crackvae.storage.uris import absolute, common_folder, join, parent, relative, without_options

# Files that may be lists of images.
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")

LISTING_SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # path or URI
        ("bytes", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
        ("error", pa.string()),  # why it cannot be opened at all; "" for nearly every image
    ]
)


@dataclass(frozen=True)
class Listing:
    """What was found below one path. Every file below it is an image, is filtered out, or is counted as excluded.

    Attributes:
        root: the absolute path that names are relative to: what was listed, or the part of it before a wildcard.
        images: table of LISTING_SCHEMA, sorted by name, each image once.
        source: what was listed, in its absolute form.
        excluded: number of other files, and of folders that were not entered, by kind.
        examples: the first name of each of these kinds.
        passed_over: images that --since or --prefix filtered out.
        elsewhere: images of other shards that the filters leave; of a list also those whose time it does not say.
    """

    root: str
    images: pa.Table
    source: str
    excluded: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0
    elsewhere: int = 0

    @property
    def skipped(self) -> int:
        """Number of files and folders that are excluded."""
        return sum(self.excluded.values())

    def empty(self) -> str:
        """The error message if there is no image."""
        is_list = self.root == self.source and self.source.lower().endswith(LIST_SUFFIXES) and self.skipped == 1
        advice = f"a list of images is named @{self.source}" if is_list else "check --images"
        return f"{self.source} contains no images ({self.exclusions() or 'it is empty'}): {advice}."

    def exclusions(self) -> str:
        """What is excluded, in one line: `2 hidden (.a.jpg, ...), 1 video (b.mp4)`; "" for nothing."""
        return ", ".join(
            f"{n} {kind} ({self.examples[kind]}{', ...' if n > 1 else ''})" for kind, n in self.excluded.items()
        )


def list_images(path: str, exclude: Sequence[str] = ()) -> Listing:
    """List every image below a folder, in a .zip, or below a URI; a single image is a list of one.

    Further pages of a TIFF are images of their own: `scan.tif!/page=2`.

    `*`, `?`, `[...]` and `**` are wildcards, unless a file or folder of that very name exists. `@FILE` is a text file
    with one image a line, or a Parquet table with a column of them; what it names is taken as an image whatever its
    ending, and a relative name is relative to the folder of the list. Names are compared in one Unicode form.

    Args:
        exclude: patterns for names of files and folders, or, with a slash, for paths below the listed one.

    Raises:
        StorageError: the path does not exist or cannot be listed.
        ArchiveError: a .zip that is broken.
    """
    return list_paths([path], exclude=exclude)


def list_paths(
    paths: Sequence[str],
    since: datetime | None = None,
    prefix: str = "",
    exclude: Sequence[str] = (),
    *,
    videos: bool = False,
    shard: Shard | None = None,
) -> Listing:
    """List one or several paths, each as list_images() does; an image that two of them contain is listed once.

    The root is the folder that all paths have in common. `prefix` and `exclude` apply to each path by itself, and a
    file that is excluded from two of them counts twice. A path that is given twice counts once.

    Args:
        since: only images modified then or later; one whose time is not known stays.
        prefix: only images whose path below the listed one starts so, `2026-11-2` or `bridge-7/`; of `clip.mp4!/t=01`
            the whole file, until excerpts_of_prefix().
        exclude: as for list_images().
        videos: whether videos are listed instead of excluded.
        shard: of which only the images are kept, file by file, so that all pages of a TIFF are in one.

    Raises:
        As list_images(); also StorageError where `since` and `prefix` leave no image of any path.
    """
    different: dict[str, str] = {}
    for path in paths:
        different.setdefault(path if path.startswith("@") else absolute(path), path)
    listings = [_listed(path, since, prefix, exclude, videos=videos, shard=shard) for path in different.values()]
    found = listings[0] if len(listings) == 1 else _joined(listings)
    n_images = found.images.num_rows + found.passed_over
    if not found.images.num_rows and not found.elsewhere and (n_images or prefix):
        raise StorageError(_nothing_left(found.source, n_images, since, prefix))
    return found


def _joined(listings: Sequence[Listing]) -> Listing:
    counts = Counter[str]()
    for one in listings:
        counts.update(one.excluded)
    return Listing(
        root=common_folder([one.root for one in listings]),
        images=sorted_once(pa.concat_tables([one.images for one in listings])),
        source=f"{listings[0].source} and {len(listings) - 1} more",
        excluded=dict(sorted(counts.items())),
        examples={kind: name for one in reversed(listings) for kind, name in one.examples.items()},
        passed_over=sum(one.passed_over for one in listings),
        elsewhere=sum(one.elsewhere for one in listings),
    )


def _listed(
    path: str, since: datetime | None, prefix: str, exclude: Sequence[str], *, videos: bool, shard: Shard | None
) -> Listing:
    left_out = Exclusions(videos=videos)
    if path.startswith("@") and not os.path.lexists(path):
        source = "@" + existing_form(absolute(path[1:]))
        root = parent(source[1:])
        images, elsewhere = _table(listed_files(source[1:], shard, _left_by(root, since, prefix)))
    else:
        source = absolute(path)
        _require_no_part(source)
        root, found = _found(source, prefix)
        every = _images(found, root, [below(pattern, root) for pattern in exclude], left_out)
        images, elsewhere = _table(_of_shard(every, shard, _left_by(root, since, prefix)) if shard else every)
    kept = _kept(images, root, since, prefix)
    excluded = dict(sorted(left_out.counts.items()))
    passed_over = images.num_rows - kept.num_rows
    return Listing(root, with_pages(kept), source, excluded, left_out.first, passed_over, elsewhere)


def _require_no_part(source: str) -> None:
    """Raise StorageError for the name that a part of a file has in tables."""
    entry, file = archive.split_entry(source), archive.file_of(source)
    if (entry or file != source) and not fileio.exists(source):
        whole = entry[0] if entry else file
        raise StorageError(
            f"{source} is a part of {whole}: write its name into a list and give @LIST, or name that file."
        )


def _nothing_left(source: str, n_images: int, since: datetime | None, prefix: str) -> str:
    filters = ([f"--prefix {prefix}"] if prefix else []) + ([f"--since {since:%Y-%m-%dT%H:%M}"] if since else [])
    what = f"none of the {n_images} images found below {source}" if n_images else f"no image below {source}"
    return f"{' and '.join(filters)} matches {what}: check its spelling and form."


def _found(path: str, prefix: str) -> tuple[str, Iterable[File | SkippedFolder]]:
    """The root of a path and the files below it; of a folder only its subfolder, if the prefix names one."""
    root, pattern = split_pattern(path)
    if pattern:
        matching = list(matches(root, pattern))
        paths = _outermost({match for match in matching if isinstance(match, str)})
        if not paths:
            raise StorageError(f"{path} matches nothing: check the wildcards in --images, or quote them in the shell.")
        skipped = (match for match in matching if isinstance(match, SkippedFolder))
        return root, itertools.chain(skipped, *(files(path, is_named=False) for path in paths))
    folder = prefix.partition("!/")[0].rpartition("/")[0]
    is_plain = folder.isascii() and {"", ".", ".."}.isdisjoint(folder.split("/"))
    if is_plain and not archive.is_archive(root):
        named = join(root, folder)
        return root, files(named) if fileio.is_folder(named) else ()
    return root, files(root)


def _outermost(paths: set[str]) -> list[str]:
    """The paths that do not lie below another one, sorted; what lies below is listed with that."""
    bare = {without_options(path)[0] for path in paths}

    def is_below_another(path: str) -> bool:
        above = without_options(path)[0].rpartition("/")[0]
        while above:
            if above in bare:
                return True
            above = above.rpartition("/")[0]
        return False

    return sorted(path for path in paths if not is_below_another(path))


def _images(
    found: Iterable[File | SkippedFolder], root: str, exclude: Sequence[str], left_out: Exclusions
) -> Iterator[File]:
    """The images among some files; what else there is is counted in `left_out`."""
    perhaps_own, skipped = [], set[SkippedFolder]()
    for file in found:
        name = relative(file[0], root)
        if isinstance(file, SkippedFolder):
            if file not in skipped:  # several patterns may lead to it
                left_out.add(file.kind, name)
            skipped.add(file)
        elif kind := left_out.kind_of(name, exclude):
            left_out.add(kind, name)
        elif may_be_own(file.image):
            perhaps_own.append(file)
        else:
            yield file
    for file in perhaps_own:
        if file.image != root and is_own(file.image):
            left_out.add(OWN, relative(file.image, root))
        else:
            yield file


def _left_by(root: str, since: datetime | None, prefix: str) -> Callable[[str, int], bool]:
    """Whether --since and --prefix leave a file, by name and time [us]; one whose time is not known, 0, stays.

    For files of other shards, so that a filter that leaves no file of any shard is told.
    """
    since_us = 0 if since is None else since.timestamp() * 1e6

    def is_left(image: str, modified_us: int) -> bool:
        return not 0 < modified_us < since_us and (not prefix or _has_prefix(image, root, prefix))

    return is_left


def _of_shard(every: Iterable[File], shard: Shard, is_left: Callable[[str, int], bool]) -> Iterator[File | None]:
    """The files of a shard, and None for each of another one that the filters leave."""
    for file in every:
        if is_in_shard(file.image, shard):
            yield file
        elif is_left(file.image, file.modified_us):
            yield None


def _table(found: Iterable[File | None]) -> tuple[pa.Table, int]:
    """LISTING_SCHEMA, sorted by name, each name once; and how many files are None, those of other shards."""
    parts, elsewhere = [], 0
    for chunk in chunks(found):
        rows = [file for file in chunk if file]
        elsewhere += len(chunk) - len(rows)
        if not rows:
            continue
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        parts.append(pa.table(columns, names=LISTING_SCHEMA.names).cast(LISTING_SCHEMA))
    if not parts:
        return LISTING_SCHEMA.empty_table(), elsewhere
    images = pa.concat_tables(parts)
    del parts
    return sorted_once(images), elsewhere


def _kept(images: pa.Table, root: str, since: datetime | None, prefix: str) -> pa.Table:
    if since is not None:
        modified = images["modified"]
        is_known = pc.greater(modified, pa.scalar(0, modified.type))
        is_old = pc.less(modified, pa.scalar(since, modified.type))
        images = images.filter(pc.invert(pc.and_(is_known, is_old)))
    if prefix:
        has_it = [_has_prefix(name.as_py(), root, prefix) for name in images["image"]]
        images = images.filter(pa.array(has_it, pa.bool_()))
    return images


def _has_prefix(image: str, root: str, prefix: str) -> bool:
    name, start = nfc(relative(image, root)), nfc(prefix)
    return name.startswith(start) or start.startswith(f"{name}!/")


def excerpts_of_prefix(images: pa.Table, prefix: str) -> pa.Table:
    """Of images that list_paths() has found for a prefix, the pages, windows and frames that it names, if it does.

    Raises:
        StorageError: the file has none of this name.
    """
    _, mark, part = nfc(prefix).rpartition("!/")
    if not mark or not images.num_rows:
        return images
    kept = images.filter(pa.array([f"!/{part}" in nfc(name) for name in images["image"].to_pylist()], pa.bool_()))
    if not kept.num_rows:
        raise StorageError(f"--prefix {prefix} matches no page, window or frame: check its spelling and form.")
    return kept
