"""Progress on standard error: a moving line on a terminal, a line every 10 s elsewhere, nothing with `quiet`."""

import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from crackvae.console import visible, write

# Seconds between lines where output is a log file.
LOG_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.2
# Seconds without a sign of life from the workers of a training before the person who waits is told.
SILENCE_S = 60.0


class _Lines:
    """A text stream for tqdm on which every update is a line of its own."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            write(sys.stderr, line + "\n")

    def flush(self) -> None:
        """Every line has left already."""


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
        write(sys.stderr, visible(line) + "\n")


@dataclass(frozen=True)
class Started:
    """The workers of a training have started, at first or again after a death or a resize."""

    workers: int
    after_epoch: int


# What the workers of a training tell: tiles trained on, a start, or the row of an epoch that is done and kept.
Told = int | Started | dict[str, float]


class TrainingProgress:
    """The progress of a training: a bar of images with the time left, and a line an epoch."""

    def __init__(self, tiles_an_epoch: int, epochs: int, *, quiet: bool) -> None:
        self.tiles_an_epoch, self.epochs, self.quiet = tiles_an_epoch, epochs, quiet
        self.bar: Any = None  # opened when the workers have started: their seconds to start are no training
        self.heard, self.is_told = time.monotonic(), False

    def show(self, news: list[Told]) -> None:
        """What has been told, or that nothing has been for a while."""
        if news:
            self.heard, self.is_told = time.monotonic(), False
        elif time.monotonic() - self.heard > SILENCE_S and not self.is_told:
            self.is_told = True
            self._say("nothing heard from the workers for a minute: is something else holding the CPUs or GPUs?")
        for event in news:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, int):
                self.bar.update(event)
            else:
                self._epoch(int(event["epoch"]), event)

    def _start(self, started: Started) -> None:
        if self.bar is None:
            self.bar = progress("train", self.tiles_an_epoch * self.epochs, "images", quiet=self.quiet)
        else:
            self._say(f"started again with {started.workers} worker(s), after epoch {started.after_epoch}")
        self.started, self.done = time.monotonic(), started.after_epoch
        self.bar.n = self.bar.initial = started.after_epoch * self.tiles_an_epoch
        self.bar.set_postfix_str(f"epoch {started.after_epoch + 1}/{self.epochs}", refresh=False)

    def _epoch(self, number: int, row: dict[str, float]) -> None:
        left_s = int((time.monotonic() - self.started) / (number - self.done) * (self.epochs - number))
        self._say(
            f"epoch {number}/{self.epochs}: loss {row['train_loss']:.5f} (error {row['train_squared_error']:.5f}, "
            f"KL {row['train_kl']:.1f} nats, cracks {row['train_segmentation']:.5f}), val {row['val_loss']:.5f}; "
            f"{row['images_per_s']:.0f} images/s, {left_s // 60}:{left_s % 60:02d} min left"
        )
        self.bar.update(number * self.tiles_an_epoch - self.bar.n)
        self.bar.set_postfix_str(f"epoch {min(number + 1, self.epochs)}/{self.epochs}", refresh=False)

    def _say(self, line: str) -> None:
        with self.bar.external_write_mode() if self.bar else nullcontext():
            say(line, quiet=self.quiet)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
