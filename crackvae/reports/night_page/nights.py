"""The rows of one night: those of its run, and of earlier runs that were killed before they had a page."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from crackvae.errors import StorageError
from crackvae.model.image_scores import surface_tiles
from crackvae.reports.night_page.rounds import left_of, merged, rounds_of
from crackvae.reports.night_page.run_summary import RunSummary
from crackvae.storage import fileio, tables, uris
from crackvae.storage.names.run_files import ended_runs, summary_name
from crackvae.storage.names.shards import Shard, shard_of
from crackvae.storage.tables.findings import read_findings
from crackvae.storage.tables.verdicts import Standing, standing_in, with_standing

# The columns that the page needs, beside the number of tiles that show a surface; the tile scores of a million
# photographs would not fit into memory.
COLUMNS = [
    *("image", "group", "status", "error", "width", "height", "score", "p_value", "threshold", "flagged"),
    *("rows", "cols", "worst_x", "worst_y", "model", "run", "p_kind"),
]

ALL_RUNS = "all"

# Summaries that are read for the trend; a folder may hold those of years.
MAX_SUMMARIES = 60


@dataclass(frozen=True)
class NightResults:
    """Rows of one night, with the summaries of its run and of earlier runs.

    Attributes:
        run: name of the last run of the night, or of the last one with rows of a round of shards.
        rows: COLUMNS and `tiles`, the number of tiles that show a surface; one row per image.
        interrupted: killed runs whose rows are included, because no page has shown them.
        summary: of the run, or of all shards together; None if it was killed.
        summaries: of the latest runs or rounds of shards, oldest first.
        damaged: number of summaries that cannot be read.
        of_other_models: number of rows left out because another model scored them; scores of models are not comparable.
        parts: URIs of the parts that hold the rows, in chronological order.
        folder: of the scores table.
        findings: FINDINGS_SCHEMA, of these rows.
        standing: verdicts on all images of the folder, as they were when its log was read.
        shards_left: shards of the round that have not ended.
    """

    run: str
    rows: pa.Table
    interrupted: list[str]
    summary: RunSummary | None
    summaries: list[RunSummary]
    damaged: int
    of_other_models: int
    parts: list[str]
    folder: str
    findings: pa.Table
    standing: Standing
    shards_left: list[Shard] = field(default_factory=list)


def read_night(scores: str, run: str) -> NightResults:
    """Rows of one run, and of the interrupted runs directly before it.

    Args:
        scores: folder of a scores table.
        run: name of a run, "" for the latest run with rows, or "all" for the latest row of every image.

    Raises:
        StorageError: no rows, no such run, a run that scored no image, or a damaged part.
    """
    parts = tables.list_parts(scores)
    if not parts:
        raise StorageError(f"{scores} holds no scores: name the folder that crackvae score wrote as --out.")
    ended = _ended_runs(scores)
    latest = max(parts)
    run = run or (latest if latest in ended else "")  # rows of a compaction are of runs before it
    of_runs = parts_of_runs(parts, ended, _last_ended(run, ended) if run in ended and not shard_of(run) else "")
    held = f"has {', '.join(list(of_runs)[-3:])} and {len(of_runs)} in all"
    if run not in ("", ALL_RUNS, *ended, *of_runs):
        raise StorageError(f"{scores} holds no run {run}: it {held}.")
    chosen = run or max(of_runs)
    included = list(of_runs) if run == ALL_RUNS else _runs_of_night(of_runs, chosen, ended)
    part_uris = list(dict.fromkeys(uri for name in included for uri in of_runs.get(name, [])))
    if not part_uris:
        raise StorageError(
            f"run {run} has no page, because it has no rows: it scored no image, or compact has left out its rows, as "
            f"a later run has scored the same images again. Of runs with rows {scores} {held}. Name one of them, or "
            "give --run all for the latest row of every image."
        )
    last = max([chosen, *ended] if run == ALL_RUNS else [chosen, *included])
    summaries, damaged = _summaries(scores, of_runs, [name for name in ended if name <= last])
    since = "" if run == ALL_RUNS or shard_of(chosen) else _last_ended(chosen, ended)
    names = pa.array(included, pa.string())
    parts_read = tables.each_part(part_uris, [*COLUMNS, "tile_scores"])
    found = (_with_tiles(rows.filter(pc.is_in(rows["run"], names))) for rows in parts_read)
    rows = pa.concat_tables(map(_dictionary_encoded, found)).unify_dictionaries()
    n_other = 0
    if len(included) > 1:
        of_model = pc.equal(rows["model"].cast(pa.string()), rows["model"][newest(rows)].as_py())
        n_other = rows.num_rows - total(of_model)
        rows = tables.latest(rows.filter(of_model))
    with_rows = set(rows["run"].unique().to_pylist())
    standing = standing_in(scores)
    findings = with_standing(read_findings(scores, runs={*included, *with_rows}), standing)
    if rows.num_rows:
        findings = findings.filter(pc.field("model") == rows["model"][0].as_py())
    if run == ALL_RUNS:
        return NightResults(
            ALL_RUNS, rows, [], None, summaries, damaged, n_other, part_uris, scores, findings, standing
        )
    summary = next((one for one in summaries if one.run in (chosen, *included)), None)
    interrupted = sorted(name for name in with_rows if since < name and name != chosen and name not in ended)
    left = left_of(included, ended)
    return NightResults(
        chosen, rows, interrupted, summary, summaries, damaged, n_other, part_uris, scores, findings, standing, left
    )


def newest(rows: pa.Table) -> int:
    """Position of a row of the latest run; a compaction has rows in order of image."""
    runs = rows["run"].cast(pa.string())
    return int(pc.index(runs, pc.max(runs)).as_py())


def _with_tiles(rows: pa.Table) -> pa.Table:
    """The rows with their number of tiles that show a surface instead of the scores of these."""
    return rows.append_column("tiles", pa.array(surface_tiles(rows), pa.int32())).drop_columns(["tile_scores"])


def _dictionary_encoded(rows: pa.Table) -> pa.Table:
    """A part with its repetitive columns dictionary-encoded, so that a million rows fit into memory."""
    for name in ("model", "run", "status", "error", "group", "p_kind"):
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].dictionary_encode())
    return rows


def runs_in(part: str) -> list[str]:
    """The runs with rows in a part."""
    runs: list[str] = next(tables.each_part([part], ["run"]))["run"].unique().to_pylist()
    return runs


def parts_of_runs(
    parts: Mapping[str, list[str]],
    ended: Collection[str],
    since: str = "",
    look_into: Callable[[str], list[str]] = runs_in,
) -> dict[str, list[str]]:
    """The runs with rows in a scores table, oldest first, and the parts that hold them.

    A compaction, which never ends as a run does, has parts with rows of any run before it.

    Args:
        since: parts of this and of earlier names are not looked into, and count as those of a run.
        look_into: runs_in(), or one that remembers: the rows of a part never change.
    """
    of_runs: dict[str, list[str]] = {}
    for name, uris_of_name in parts.items():
        for uri in uris_of_name:
            is_of_one = name in ended or name <= since
            for run in [name] if is_of_one else look_into(uri):
                of_runs.setdefault(run, []).append(uri)
    return dict(sorted(of_runs.items()))


def _runs_of_night(of_runs: Mapping[str, list[str]], chosen: str, ended: list[str]) -> list[str]:
    """Names of the chosen run and of the runs directly before it that never ended, as no page has shown them, as far
    as they have rows; or those of its round.
    """
    if shard_of(chosen):
        return next(runs for runs in rounds_of({*of_runs, *ended}, of_runs, ended) if chosen in runs)
    since = _last_ended(chosen, ended)
    return [name for name in of_runs if since < name <= chosen]


def _last_ended(chosen: str, ended: list[str]) -> str:
    """The last run before the chosen one that has ended; "" if there is none."""
    return max((name for name in ended if name < chosen), default="")


def tile_scores(night: NightResults, rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Scores of the tiles of some rows of the night, float32 (T,) each."""
    wanted = pa.array([row["image"] for row in rows], pa.string())
    found: dict[tuple[str, str], np.ndarray] = {}
    for uri in night.parts if rows else []:
        names = next(tables.each_part([uri], ["image"]))["image"]
        if pc.any(pc.is_in(names, value_set=wanted)).as_py():
            part = next(tables.each_part([uri], ["image", "run", "tile_scores"]))
            for row in part.filter(pc.is_in(part["image"], value_set=wanted)).to_pylist():
                found[row["image"], row["run"]] = np.asarray(row["tile_scores"], np.float32)
    return [found[row["image"], row["run"]] for row in rows]


def has_rows(scores: str, run: str) -> bool:
    """Whether the page of a run would show any image."""
    ended = _ended_runs(scores)
    of_runs = parts_of_runs(tables.list_parts(scores), ended, _last_ended(run, ended))
    return bool(_runs_of_night(of_runs, run, ended))


def runs_with_rows(scores: str, look_into: Callable[[str], list[str]] = runs_in) -> dict[str, list[str]]:
    """The runs with rows in a scores table, oldest first, and the parts that hold them; none if there are no scores.

    Args:
        look_into: see parts_of_runs().
    """
    return parts_of_runs(tables.list_parts(scores), _ended_runs(scores), look_into=look_into)


def _ended_runs(scores: str) -> list[str]:
    """Names of the runs that have ended, oldest first."""
    return ended_runs(fileio.list_files(scores))


def _summaries(scores: str, with_rows: Collection[str], ended: list[str]) -> tuple[list[RunSummary], int]:
    """Summaries of the latest rounds of these runs, oldest first, and the number of damaged ones."""
    of_rounds: list[RunSummary] = []
    n_read = damaged = 0
    for runs in reversed(rounds_of({*with_rows, *ended}, with_rows, ended)):
        of_round = []
        for run in [run for run in runs if run in ended]:
            data = fileio.read_bytes(uris.join(scores, summary_name(run)))
            n_read += 1
            try:
                of_round.append(RunSummary.model_validate_json(data))
            except ValidationError:
                damaged += 1
        of_rounds += [merged(of_round)] if of_round else []
        if n_read >= MAX_SUMMARIES:
            break
    return of_rounds[::-1], damaged


def total(column: Any) -> int:
    """Sum of a column of numbers, or number of its true values; 0 for an empty column."""
    return int(pc.sum(column).as_py() or 0)
