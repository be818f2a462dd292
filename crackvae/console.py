"""Output on the terminal: text without control characters, tables that fit, progress, and tolerance of closed pipes."""

import math
import os
import shutil
import sys
import time
import unicodedata
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # --help needs neither
    import pandas as pd

# Invisible and direction-changing characters could make one file name look like another, or change terminal colours.
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}

# A text column is never made narrower than this [characters], however narrow the terminal.
MIN_COLUMN = 24
GAP = "  "


def visible(text: object) -> str:
    """Text with every invisible character spelled out, such as ⟨U+202E⟩."""
    return "".join(
        f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _HIDDEN_CATEGORIES else char for char in str(text)
    )


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a closed pipe, or a character that the terminal cannot show, does not stop the work.

    Raises:
        OSError: standard output cannot be written. A log that cannot be written is no reason to stop.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        # Discard further output; otherwise Python flushes once more at exit, and fails.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise


def tables_text(tables: "dict[str, pd.DataFrame]", width: int | None) -> str:
    """Tables as text, each below its title.

    Args:
        width: width of the terminal [characters]; long text is shortened in its middle. None: nothing is shortened,
            for files and pipes.
    """
    return "\n\n".join(f"{visible(title)}\n{_table_text(table, width)}" for title, table in tables.items())


def terminal_width(stream: TextIO) -> int | None:
    """Characters per line, or None if the stream is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _table_text(table: "pd.DataFrame", width: int | None) -> str:
    if not len(table):
        return "(none)"
    import pandas as pd  # loaded already, wherever a table comes from

    # pandas keeps consecutive numbers as a RangeIndex, those of epochs too: a name says that they matter.
    if table.index.name is not None or not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index(names=table.index.name or "")
    heads = [visible(name).replace("_", " ") for name in table.columns]
    columns = [[_cell(value) for value in table.iloc[:, number]] for number in range(table.shape[1])]
    is_text = [any(isinstance(value, str) for value in table.iloc[:, number]) for number in range(table.shape[1])]
    widths = [max(map(len, (head, *cells))) for head, cells in zip(heads, columns, strict=True)]
    if width:
        widths = _fitted(widths, is_text, width)

    def line(cells: list[str]) -> str:
        placed = [
            _shortened(cell, size).ljust(size) if text else cell.rjust(size)
            for cell, size, text in zip(cells, widths, is_text, strict=True)
        ]
        return GAP.join(placed).rstrip()

    rule = GAP.join("-" * size for size in widths)
    return "\n".join([line(heads), rule, *(line(list(row)) for row in zip(*columns, strict=True))])


def _cell(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value  # a scalar of numpy
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if math.isnan(value) else few_digits(value, 4)
    if isinstance(value, list | tuple):
        return visible(", ".join(map(str, value)) or "-")
    return "-" if value is None else visible(value)


def few_digits(value: float, digits: int, separator: str = "") -> str:
    """A number with so many significant digits, but with its whole part in full: 2216 instead of 2.22e+03.

    Args:
        separator: between thousands.
    """
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}".replace(",", separator) if "e+" in text else text


def _fitted(widths: list[int], is_text: list[bool], width: int) -> list[int]:
    """Column widths, with the widest text columns narrowed until the table fits or MIN_COLUMN is reached."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widest = max((number for number, text in enumerate(is_text) if text), key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= MIN_COLUMN:
            break
        widths[widest] -= 1
    return widths


def _shortened(text: str, size: int) -> str:
    """Text without its middle: the start and the file name identify a path best."""
    if len(text) <= size:
        return text
    kept = size - 3
    return f"{text[: kept // 3]}...{text[len(text) - (kept - kept // 3) :]}"


# Seconds between progress updates in a log file, and on a terminal.
LOG_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.2
# Seconds without a message or a block from the workers before the user is told, and again after as many more.
SILENCE_S = 60.0


class _Lines:
    """A text stream for tqdm that writes every update on its own line."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            write(sys.stderr, line + "\n")

    def flush(self) -> None:
        """Each line is flushed when it is written."""


def progress(what: str, total: int, unit: str, *, quiet: bool) -> Any:
    """A tqdm progress bar: `with progress(...) as bar: bar.update(n)`."""
    from tqdm import tqdm  # not needed for --help

    terminal = sys.stderr.isatty()
    tqdm.monitor_interval = 0  # its monitor thread would outlive the job
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
    """Write one line to standard error for the user."""
    if not quiet:
        write(sys.stderr, visible(line) + "\n")


@dataclass(frozen=True)
class WorkersStarted:
    """The workers of a training have started, for the first time or again after a failure or a resize."""

    workers: int
    after_epoch: int


# Messages of the workers of a training: tiles trained on, a start, or the row of an epoch that is complete and saved.
TrainingEvent = int | WorkersStarted | dict[str, float]


class TrainingProgress:
    """Progress of a training: a bar of images with the time left, and a line per epoch."""

    def __init__(self, tiles_per_epoch: int, epochs: int, *, quiet: bool) -> None:
        self.tiles_per_epoch, self.epochs, self.quiet = tiles_per_epoch, epochs, quiet
        self.bar: Any = None  # created when the workers have started, so that their start-up time does not count
        self.last_message, self.is_warned = time.monotonic(), False

    def show(self, events: list[TrainingEvent]) -> None:
        """Show events, or a warning if there has been none for a while."""
        if events:
            self.last_message, self.is_warned = time.monotonic(), False
        elif time.monotonic() - self.last_message > SILENCE_S and not self.is_warned:
            self.is_warned = True
            self._say("no message from the workers for a minute: are the CPUs or GPUs in use by another job?")
        for event in events:
            if isinstance(event, WorkersStarted):
                self._start(event)
            elif isinstance(event, int):
                self.bar.update(event)
            else:
                self._epoch(int(event["epoch"]), event)

    def _start(self, started: WorkersStarted) -> None:
        if self.bar is None:
            self.bar = progress("train", self.tiles_per_epoch * self.epochs, "images", quiet=self.quiet)
        else:
            self._say(f"restarted with {started.workers} worker(s), after epoch {started.after_epoch}")
        self.started, self.done = time.monotonic(), started.after_epoch
        self.bar.n = self.bar.initial = started.after_epoch * self.tiles_per_epoch
        self.bar.set_postfix_str(f"epoch {started.after_epoch + 1}/{self.epochs}", refresh=False)

    def _epoch(self, number: int, row: dict[str, float]) -> None:
        left_s = int((time.monotonic() - self.started) / (number - self.done) * (self.epochs - number))
        self._say(
            f"epoch {number}/{self.epochs}: loss {row['train_loss']:.5f} (error {row['train_squared_error']:.5f}, "
            f"KL {row['train_kl']:.1f} nats, cracks {row['train_segmentation']:.5f}), val {row['val_loss']:.5f}; "
            f"{row['images_per_s']:.0f} images/s, {left_s // 60}:{left_s % 60:02d} min left"
        )
        self.bar.update(number * self.tiles_per_epoch - self.bar.n)
        self.bar.set_postfix_str(f"epoch {min(number + 1, self.epochs)}/{self.epochs}", refresh=False)

    def _say(self, line: str) -> None:
        with self.bar.external_write_mode() if self.bar else nullcontext():
            say(line, quiet=self.quiet)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
