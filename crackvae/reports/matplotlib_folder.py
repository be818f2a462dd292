"""A folder for the cache of Matplotlib, which cannot be imported without one. Does not import Matplotlib."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from crackvae.storage import uris


@contextmanager
def matplotlib_folder(output: str) -> Iterator[None]:
    """A temporary folder for the cache of Matplotlib if it has none; on a read-only disk, in the folder of the output.

    Import charts and curves inside of it, and only there.

    Args:
        output: a folder that is written to.

    Raises:
        FileNotFoundError: no local folder is writable.
    """
    is_home_writable = os.access(os.path.expanduser("~"), os.W_OK)
    if is_home_writable or os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules:
        yield
        return
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # none is writable
        if not uris.is_local(output):
            raise
        folder = output
    with tempfile.TemporaryDirectory(prefix="_matplotlib-", dir=folder) as cache:
        os.environ["MPLCONFIGDIR"] = cache
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
