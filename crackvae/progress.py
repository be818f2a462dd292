"""Progress on standard error: a moving line on a terminal, a line every 10 s elsewhere, nothing with `quiet`."""

import sys
from typing import Any

from tqdm import tqdm

# Seconds between lines where output is a log file.
LOG_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.2


class _Lines:
    """A text stream for tqdm on which every update is a line of its own."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(what: str, total: int, unit: str, *, quiet: bool) -> Any:
    """A tqdm counter: `with progress(...) as bar: bar.update(n)`. Shows done, total, rate and time left."""
    terminal = sys.stderr.isatty()
    tqdm.monitor_interval = 0  # its watching thread would outlive the job
    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        disable=quiet,
        file=sys.stderr if terminal else _Lines(),
        mininterval=TERMINAL_INTERVAL_S if terminal else LOG_INTERVAL_S,
        miniters=1,
        dynamic_ncols=terminal,
        leave=True,
    )


def say(line: str, *, quiet: bool) -> None:
    """One line to the person who waits."""
    if not quiet:
        print(line, file=sys.stderr, flush=True)
