"""What the command shows: text that cannot steer a terminal, tables that fit it, streams whose reader may have gone."""

import os
import shutil
import unicodedata
from typing import Any, TextIO

import numpy as np
import pandas as pd

# Invisible and direction-changing characters would let one file name look like another, or colour a terminal.
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
# A column of text is never made narrower than this, however narrow the terminal.
MIN_COLUMN = 24
GAP = "  "


def visible(text: object) -> str:
    """Text with every invisible character spelled out, such as ⟨U+202E⟩."""
    return "".join(
        f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in _HIDDEN_CATEGORIES else char for char in str(text)
    )


def write(stream: TextIO, text: str) -> None:
    """Write and flush; where nobody reads any more, or the terminal lacks a letter, the work goes on all the same."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        # From here on nothing is said; without this Python would try once more at its exit, and fail loudly.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def tables_text(tables: dict[str, pd.DataFrame], width: int | None) -> str:
    """Tables for people, each below its title.

    Args:
        width: of the terminal [characters]; long text loses its middle. None: nothing is cut, for files and pipes.
    """
    return "\n\n".join(f"{visible(title)}\n{_table_text(table, width)}" for title, table in tables.items())


def terminal_width(stream: TextIO) -> int | None:
    """Characters a line, or None where the stream is no terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _table_text(table: pd.DataFrame, width: int | None) -> str:
    if not len(table):
        return "(none)"
    if not isinstance(table.index, pd.RangeIndex):
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
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return "-" if np.isnan(value) else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return visible(", ".join(map(str, value)) or "-")
    return "-" if value is None else visible(value)


def _fitted(widths: list[int], is_text: list[bool], width: int) -> list[int]:
    """The widths with the widest columns of text made narrower until all fit, or MIN_COLUMN is reached."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widest = max((number for number, text in enumerate(is_text) if text), key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= MIN_COLUMN:
            break
        widths[widest] -= 1
    return widths


def _shortened(text: str, size: int) -> str:
    """Text without its middle: of a path its start and its file name say most."""
    if len(text) <= size:
        return text
    kept = size - 3
    return f"{text[: kept // 3]}...{text[len(text) - (kept - kept // 3) :]}"
