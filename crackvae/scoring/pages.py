"""The page of a run. It is optional: no fault of it costs a run its rows, its summary or its exit code."""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from crackvae.config import ReportConfig
from crackvae.console import progress, say
from crackvae.errors import StorageError
from crackvae.reports.nights import page_name
from crackvae.scoring.summaries import ScoreSummary
from crackvae.storage import uris


def page_path(out: str, run: str) -> str:
    """Path of the page of a run, beside its table."""
    return uris.join(out, page_name(run))


def write_page(summary: ScoreSummary, *, model: str, quiet: bool) -> str:
    """Write the page that a summary names; returns "", or why there is no page, which the user is told."""
    settings = ReportConfig(scores=summary.out, run=summary.run, out=summary.report, model=model, quiet=quiet)
    try:
        with _matplotlib_folder(summary.out), progress("report", 1, "page", quiet=quiet) as bar:
            # Imported here and by name: matplotlib cannot be imported without a folder to write its font cache to.
            importlib.import_module("crackvae.reports.verb").report(settings)
            bar.update(1)
    except (OSError, StorageError) as error:
        why = uris.reason(error)
        say(f"no page: {why} Rows and summary are written: run crackvae report --scores {summary.out}.", quiet=False)
        return why
    return ""


@contextmanager
def _matplotlib_folder(out: str) -> Iterator[None]:
    """A temporary folder for the cache of matplotlib where it finds none; on a read-only disk it is below `out`."""
    is_home_writable = os.access(os.path.expanduser("~"), os.W_OK)
    if is_home_writable or os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules:
        yield
        return
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # none can be written
        if not uris.is_local(out):
            raise
        folder = out
    with tempfile.TemporaryDirectory(prefix="_matplotlib-", dir=folder) as cache:
        os.environ["MPLCONFIGDIR"] = cache
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
