"""The photographs of a visit, and their findings by one model with one threshold.

A change of model or threshold between two visits is not growth: photographs that were scored by another model, or
with another threshold, are scored again where their files are still what they were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import BUILTIN, ScoreConfig, ScoringConfig
from crackvae.console import say
from crackvae.errors import StorageError
from crackvae.model.inference import find_recorded_model, load_scorer
from crackvae.scoring.summaries import recorded_model_dir
from crackvae.scoring.verb import score_images
from crackvae.storage import fileio, tables, uris
from crackvae.storage.content import changed
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, FINDINGS_TYPE, read_findings

COLUMNS = (
    "image",
    "group",
    "status",
    "error",
    "bytes",
    "model",
    "threshold",
    "run",
    "content",
    "lat",
    "lon",
    "heading_deg",
    "untraced",
)


@dataclass(frozen=True)
class Visit:
    """The photographs of one visit.

    Attributes:
        out: folder of their scores.
        rows: COLUMNS of their scores, for each photograph the latest row of each model, in order of runs.
    """

    out: str
    rows: pa.Table

    @property
    def images(self) -> list[str]:
        """The photographs, in order of their last run."""
        return list(dict.fromkeys(reversed(self.rows["image"].to_pylist())))[::-1]

    @cached_property
    def first_runs(self) -> pa.Table:
        """The run that was the first, of any model, to score each photograph as its file is now: image and run.

        A model that is new in a folder scores all photographs again, and that makes no visit of them.
        """
        of_content = self.rows.group_by(["image", "bytes", "content"]).aggregate([("run", "min"), ("run", "max")])
        last = tables.last_of_each(of_content.sort_by("run_max"))
        return last.select(["image", "run_min"]).rename_columns(["image", "run"])

    def of_runs(self, runs: Sequence[str], *, are_others: bool = False) -> "Visit":
        """The photographs that these runs were the first to score, or with `are_others` all other ones."""
        first = self.first_runs
        theirs = first.filter(pc.is_in(first["run"], value_set=pa.array(runs, pa.string())))["image"].combine_chunks()
        is_wanted = pc.is_in(self.rows["image"], value_set=theirs)
        return Visit(self.out, self.rows.filter(pc.invert(is_wanted) if are_others else is_wanted))

    def of_images(self, images: Iterable[str]) -> "Visit":
        """Only these photographs."""
        wanted = pa.array(list(images), pa.string())
        return Visit(self.out, self.rows.filter(pc.is_in(self.rows["image"], value_set=wanted)))


def read_visit(out: str) -> Visit:
    """The photographs in a folder of scores."""
    rows = tables.read_scores(out, COLUMNS)
    return Visit(out, rows.sort_by([("run", "ascending"), ("image", "ascending")]))


def scored_visit(location: str, folder: str, config: ScoringConfig, model: str) -> Visit:
    """The visit in a folder of scores; a folder of photographs is scored first, into a table below `folder`.

    Raises:
        StorageError: it holds neither.
    """
    path = uris.absolute(location)
    if tables.list_parts(path):
        return read_visit(path)
    say(f"{path} holds no scores: its photographs are scored", quiet=config.quiet)
    out = _score(path, folder, config, model or BUILTIN)
    visit = read_visit(out)
    bare = uris.without_options(path)[0]
    is_below = [f"{name}/".startswith((f"{bare}/", f"{bare}!/")) for name in visit.rows["image"].to_pylist()]
    return Visit(out, visit.rows.filter(pa.array(is_below, pa.bool_())))


def _score(images: str, folder: str, config: ScoringConfig, model: str) -> str:
    """Score images into the table of `folder`, and return its path."""
    shared = {one.name: getattr(config, one.name) for one in fields(ScoringConfig)}
    # Each calibration has a table of its own: a row of another threshold would count as finished.
    out = uris.join(folder, f"_scores/{load_scorer(model).calibration.digest[:16]}")
    score_images(ScoreConfig(**shared, images=(images,), model=model, out=out, no_report=True))
    return out


@dataclass(frozen=True)
class Alike:
    """Findings of photographs that one model with one threshold has scored.

    Attributes:
        findings: FINDINGS_SCHEMA.
        model: digest of the model.
        reasons: why there are no findings to compare, by photograph.
        scored_again: number of photographs that were scored for this.
    """

    findings: pa.Table
    model: str
    reasons: dict[str, str]
    scored_again: int

    def by_image(self, images: Sequence[str]) -> pa.Array:
        """The findings of each of these photographs, FINDINGS_TYPE."""
        numbers: dict[str, list[int]] = {}
        for number, image in enumerate(self.findings["image"].to_pylist()):
            numbers.setdefault(image, []).append(number)
        each = [numbers.get(image, []) for image in images]
        rows = self.findings.take(pa.array([number for one in each for number in one], pa.int64())).combine_chunks()
        structs = pa.StructArray.from_arrays(
            [rows[name].combine_chunks() for name in rows.column_names], fields=list(rows.schema)
        )
        offsets = pa.array(np.cumsum([0, *map(len, each)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, structs).cast(FINDINGS_TYPE)


def scored_alike(
    visits: Sequence[Visit], paired: set[str], folder: str, config: ScoringConfig, model_dir: str
) -> Alike:
    """The findings of all photographs by the model and the threshold of the last run of the last visit.

    Args:
        paired: photographs that are to be compared, and are scored again where they have to be.
        folder: of the table of changes; what is scored again has its scores in a table below it.
        model_dir: of that model, or "" for the one that the scores name.
    """
    last = visits[-1].rows.filter(pc.equal(visits[-1].rows["status"], "scored"))
    if not last.num_rows:
        return Alike(FINDINGS_SCHEMA.empty_table(), "", dict.fromkeys(paired, "no photograph was scored"), 0)
    model, threshold = last["model"][-1].as_py(), last["threshold"][-1].as_py()
    found, missing = [], dict[str, str]()
    for visit in visits:
        names, findings = _findings(visit.out, visit.rows, model, threshold)
        found.append(findings)
        rows = visit.rows.filter(pc.is_in(visit.rows["image"], value_set=pa.array(sorted(paired), pa.string())))
        missing |= _problems(rows, names)
    again = sorted(image for image, why in missing.items() if not why)
    if again:
        why_not, findings, names = _score_again(again, visits[-1].out, folder, config, model_dir, model, threshold)
        found.append(findings)
        missing = {image: why or why_not for image, why in missing.items() if image not in names}
    return Alike(pa.concat_tables(found), model, missing, len(again) - sum(image in missing for image in again))


def _findings(out: str, rows: pa.Table, model: str, threshold: float) -> tuple[set[str], pa.Table]:
    """The photographs among some rows that this model has scored and traced with this threshold, and their findings."""
    is_alike = pc.and_(pc.equal(rows["model"], model), pc.equal(rows["threshold"], pa.scalar(threshold, pa.float32())))
    is_traced = pc.and_(pc.equal(rows["status"], "scored"), pc.invert(rows["untraced"]))
    names = rows.filter(pc.and_(is_alike, is_traced))["image"].combine_chunks()
    findings = read_findings(out, images=names)
    return set(names.to_pylist()), findings.filter(pc.equal(findings["model"], model))


def _problems(rows: pa.Table, names: set[str]) -> dict[str, str]:
    """Why photographs cannot be compared: each whose file has changed, and each that is not among `names`.

    The reason is "" where scoring a photograph again would do.
    """
    last = {row["image"]: row for row in rows.to_pylist()}
    is_changed = changed(list(last), [row["content"] for row in last.values()])
    problems = {}
    for (image, row), is_other in zip(last.items(), is_changed, strict=True):
        if is_other:
            problems[image] = "its file has changed since it was scored"
        elif image not in names:
            is_scored = row["status"] == "scored"
            problems[image] = "" if is_scored else f"it is {row['status'].replace('_', ' ')}: {row['error']}"
    return problems


def _score_again(
    images: Sequence[str], out: str, folder: str, config: ScoringConfig, named: str, model: str, threshold: float
) -> tuple[str, pa.Table, set[str]]:
    """Why photographs cannot be scored with a model, or ""; the findings, and the photographs that have been scored."""
    folder_named = recorded_model_dir(out, model)
    recorded = find_recorded_model(named, folder_named, model, threshold)
    other = "it was scored with another model or threshold, or without findings"
    nothing = FINDINGS_SCHEMA.empty_table()
    is_same = recorded.model and np.float32(load_scorer(named or folder_named).calibration.threshold) == threshold
    if not is_same:
        why = recorded.why_not or "the threshold of that model has changed since"
        return f"{other}, and cannot be scored again: {why}", nothing, set()
    say(f"{len(images)} photographs were scored otherwise, or without findings: score them again", quiet=config.quiet)
    listed = uris.join(folder, "_again.parquet")
    tables.write_table(listed, pa.table({"image": images}))
    try:
        again = _score(f"@{listed}", folder, config, named or folder_named)
    except StorageError as error:
        return f"{other}, and could not be scored again: {error}", nothing, set()
    finally:
        fileio.delete_file(listed)
    names, findings = _findings(again, read_visit(again).rows, model, threshold)
    return (
        f"{other}, and could not be scored again",
        findings.filter(pc.is_in(findings["image"], value_set=pa.array(images, pa.string()))),
        names,
    )
