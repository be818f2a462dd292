"""Files that arrive in a folder: each is scored once it is complete, and none is dropped."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from crackvae.console import say
from crackvae.errors import StorageError
from crackvae.images.decoded import decode_images
from crackvae.images.decoding import MAX_IMAGE_PX
from crackvae.images.decoding.windows import with_windows
from crackvae.images.groups import with_groups
from crackvae.images.pictures import read_pixels
from crackvae.images.tiles import Tiling
from crackvae.model.inference import Scorer
from crackvae.scoring.run_table import finished_rows, still_to_score
from crackvae.storage.listing import Listing, list_paths
from crackvae.storage.names.excerpts import excerpt_of
from crackvae.streaming.arrivals import Arrival

# A file whose size and time have not changed for this long is complete [s].
REST_S = 2.0

# Shortest pause between two listings [s]; listing a large folder takes a tenth of the time at most.
POLL_S, POLL_SHARE = 0.5, 0.1

KEY = ["image", "bytes", "modified"]


class Resting:
    """Which files of a folder are complete and new.

    Attributes:
        done: KEY of the files that were returned, or need not be.
    """

    def __init__(self, done: pa.Table) -> None:
        self.done = done.select(KEY)
        self._since: dict[tuple[object, ...], float] = {}

    def ready(self, images: pa.Table, now_s: float) -> pa.Table:
        """New files at rest, sorted by name.

        Args:
            images: LISTING_SCHEMA, all files of the folder.
            now_s: time.monotonic().
        """
        new = images.join(self.done, KEY, join_type="left anti").sort_by("image")
        keys = list(zip(*(new[name].to_pylist() for name in KEY), strict=True))
        self._since = {key: self._since.get(key, now_s) for key in keys}
        is_ready = [now_s - self._since[key] >= REST_S for key in keys]
        waiting = new.filter(pa.array([not ready for ready in is_ready], pa.bool_()))
        self.done = images.select(KEY).join(waiting.select(KEY), KEY, join_type="left anti")
        return new.filter(pa.array(is_ready, pa.bool_()))


class Folder:
    """A folder that files arrive in.

    Attributes:
        state: what it is doing, in words.
        received: number of files that came.
    """

    def __init__(self, source: str, out: str, scorer: Scorer, *, quiet: bool) -> None:
        """List what there is; raises StorageError where there is no such folder."""
        self.shown, self.quiet = source, quiet
        self.state, self.received = "waiting for files", 0
        found = list_paths([source])
        model, threshold = scorer.model.digest, scorer.calibration.threshold
        images = with_windows(found.images, MAX_IMAGE_PX)
        todo = still_to_score(images, finished_rows(out, images["image"]), model, threshold).images
        names = [one.file if (one := excerpt_of(name)) else name for name in todo["image"].to_pylist()]
        files = todo.set_column(todo.schema.get_field_index("image"), "image", pa.array(names, pa.string()))
        self._seen = set[str]()  # names of the files that have a row of this run
        self._resting = Resting(found.images.join(files.select(KEY), KEY, join_type="left anti"))

    def counts(self) -> dict[str, Any]:
        """What became of the files, apart from their rows."""
        return {"received": self.received, "dropped": 0, "passed_over": 0, "reconnects": 0, "damaged": 0}

    def arrivals(self, tiling: Tiling, stop: threading.Event) -> Iterator[Arrival | None]:
        """Complete files as they come, None where there is none yet; ends when `stop` is set."""
        while not stop.is_set():
            started = time.monotonic()
            found = self._list()
            listing_s = time.monotonic() - started
            for arrival in self._complete(found, started, tiling) if found else ():
                if stop.is_set():
                    return
                self.received += 1
                yield arrival
            yield None
            stop.wait(max(POLL_S, listing_s / POLL_SHARE))

    def _list(self) -> Listing | None:
        try:
            found = list_paths([self.shown])
        except StorageError as error:  # unmounted, or replaced: it may come back
            if self.state == "waiting for files":
                say(f"{error} Trying again.", quiet=self.quiet)
            self.state = f"cannot be listed: {error}"
            return None
        self.state = "waiting for files"
        return found

    def _complete(self, found: Listing, now_s: float, tiling: Tiling) -> Iterator[Arrival]:
        """What is complete and new of a listing."""
        ready = self._resting.ready(found.images, now_s)
        names = set(ready["image"].to_pylist())
        is_again = not names.isdisjoint(self._seen)
        self._seen |= names
        images = with_groups(replace(found, images=with_windows(ready, MAX_IMAGE_PX)), "parent")
        for number, name in enumerate(images["image"].to_pylist()):
            decoded = decode_images(images.slice(number, 1), tiling)
            pixels = partial(read_pixels, name)
            yield Arrival(name, decoded, pixels, now_s - REST_S, is_file=True, is_again=is_again and not number)


def is_inside(out: str, source: str) -> bool:
    """Whether maps that are written to `out` would arrive in the source."""
    return out == source or out.startswith(source.rstrip("/") + "/")
