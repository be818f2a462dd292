"""The rows that belong to one night: those of its run, and of runs that were killed before they had a page."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import StorageError
from crackvae.storage import fileio, tables, uris

# All that the page needs of a row; tile scores of a million photographs would not fit into memory.
COLUMNS = [
    *("image", "group", "status", "error", "width", "height", "score", "p_value", "threshold", "flagged"),
    *("rows", "cols", "worst_x", "worst_y", "model", "run"),
]


ALL_RUNS = "all"


# Summaries that are read for the trend; a folder may hold those of years.
MAX_SUMMARIES = 60


@dataclass(frozen=True)
class Night:
    """Rows of one night and what is known about it.

    Attributes:
        run: name of the run that ended the night.
        rows: COLUMNS, one row an image.
        interrupted: runs whose rows are here too, because they were killed before they could write a page.
        summary: of the run, or {} where it was killed.
        summaries: of the last runs, oldest first.
        damaged: summaries that cannot be read.
        of_other_models: rows of other models than that of the last row; left out, their scores mean other things.
    """

    run: str
    rows: pa.Table
    interrupted: list[str]
    summary: dict[str, Any]
    summaries: list[dict[str, Any]]
    damaged: int
    of_other_models: int


def read_night(scores: str, run: str) -> Night:
    """Rows of one run, and of the runs directly before it that were interrupted.

    Args:
        run: name of a run, "" for the latest that has rows, or "all" for the latest row of every image.

    Raises:
        StorageError: no rows, no such run, or a part is damaged.
    """
    parts = tables.list_parts(scores)
    if not parts:
        raise StorageError(f"{scores} holds no scores: name the folder that crackvae score wrote as --out.")
    ended = _ended(scores)
    if run not in ("", ALL_RUNS, *ended, *parts):
        raise StorageError(
            f"{scores} holds no run {run}: it has {', '.join(list(parts)[-3:])} and {len(parts)} in all."
        )
    chosen = run or max(parts)
    shown = sorted(parts) if run == ALL_RUNS else _runs_of_night(parts, chosen, ended)
    summaries, damaged = _summaries(scores, [name for name in ended if name <= chosen or run == ALL_RUNS])
    places = [place for name in shown for place in parts[name]]
    rows = pa.concat_tables(map(_compact, tables.each_part(places, COLUMNS))).unify_dictionaries()
    others = 0
    if len(shown) > 1:
        of_model = pc.equal(rows["model"].cast(pa.string()), rows["model"][-1].as_py())
        others = rows.num_rows - total(of_model)
        rows = tables.latest(rows.filter(of_model))
    if run == ALL_RUNS:
        return Night(ALL_RUNS, rows, [], {}, summaries, damaged, others)
    summary = next((one for one in summaries if one["run"] == chosen), {})
    return Night(chosen, rows, [name for name in shown if name != chosen], summary, summaries, damaged, others)


def _compact(rows: pa.Table) -> pa.Table:
    """A part of a table: what is the same in many of a million rows is kept once."""
    for name in ("model", "run", "status", "error", "group"):
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].dictionary_encode())
    return rows


def _runs_of_night(parts: Iterable[str], chosen: str, ended: list[str]) -> list[str]:
    """The chosen run and, before it, those directly before it that never ended: no page has shown their images."""
    earlier = [name for name in sorted(parts) if name < chosen]
    n_ended = max((number for number, name in enumerate(earlier, start=1) if name in ended), default=0)
    return [*earlier[n_ended:], *([chosen] if chosen in parts else [])]


def has_rows(scores: str, run: str) -> bool:
    """Whether the page of a run would show any image."""
    return bool(_runs_of_night(tables.list_parts(scores), run, _ended(scores)))


def _ended(scores: str) -> list[str]:
    """Names of the runs that came to their end, oldest first: a summary is the last thing that a run writes."""
    names = [name for name in fileio.list_files(scores) if name.startswith("_summary-") and name.endswith(".json")]
    return sorted(name.removeprefix("_summary-").removesuffix(".json") for name in names)


def _summaries(scores: str, runs: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Summaries of the last of these runs, oldest first, and how many of them are damaged."""
    found, damaged = [], 0
    for run in runs[-MAX_SUMMARIES:]:
        try:
            summary = json.loads(fileio.read_bytes(uris.join(scores, f"_summary-{run}.json")))
            found.append(summary | {"run": str(summary["run"])})
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return found, damaged


def total(column: pa.ChunkedArray) -> int:
    """Sum of a column of numbers, or number of its true values; 0 where it is empty."""
    return int(pc.sum(column).as_py() or 0)
