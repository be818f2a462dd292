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
from crackvae.storage.names.pages import with_pages
from crackvae.storage.names.shards import Shard, is_in_shard
from crackvae.storage.names.unicode_forms import existing_form, nfc
from crackvae.storage.uris import absolute, common_folder, join, parent, relative, without_options

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
        return f"{self.source} contains no images ({self.exclusions() or 'it is empty'}): check --images."

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
    file that is excluded from two of them counts twice.

    Args:
        since: only images modified then or later; one whose time is not known stays.
        prefix: only images whose path below the listed one starts so, `2026-11-2` or `bridge-7/`.
        exclude: as for list_images().
        videos: whether videos are listed instead of excluded.
        shard: of which only the images are kept, file by file, so that all pages of a TIFF are in one.

    Raises:
        As list_images(); also StorageError where `since` and `prefix` leave no image of any path.
    """
    listings = [_listed(path, since, prefix, exclude, videos=videos, shard=shard) for path in paths]
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
        images=_sorted_once(pa.concat_tables([one.images for one in listings])),
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
        root, found = _found(source, prefix)
        every = _images(found, root, [below(pattern, root) for pattern in exclude], left_out)
        images, elsewhere = _table(_of_shard(every, shard, _left_by(root, since, prefix)) if shard else every)
    kept = _kept(images, root, since, prefix)
    excluded = dict(sorted(left_out.counts.items()))
    passed_over = images.num_rows - kept.num_rows
    return Listing(root, with_pages(kept), source, excluded, left_out.first, passed_over, elsewhere)


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
    folder = prefix.rpartition("/")[0]
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
    return _sorted_once(images), elsewhere


def _sorted_once(images: pa.Table) -> pa.Table:
    images = images.take(pc.sort_indices(images["image"])).combine_chunks()
    names = images["image"]
    if images.num_rows > 1:
        again = pc.equal(names.slice(1), names.slice(0, len(names) - 1))
        if pc.any(again).as_py():
            images = images.filter(pa.chunked_array([[True], *pc.invert(again).chunks]))
    return images


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
    return nfc(relative(image, root)).startswith(nfc(prefix))
