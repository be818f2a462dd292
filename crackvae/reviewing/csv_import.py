"""Import of the CSV that a page opened from disk lets a reviewer download."""

import hashlib
from contextlib import suppress

import pandas as pd

from crackvae.errors import ManifestError
from crackvae.results import Result
from crackvae.storage import tables
from crackvae.storage.tables.verdict_csv import subject_of, verdict_rows
from crackvae.storage.tables.verdicts import Judgement, VerdictLog, as_table, standing_of


def import_verdicts(scores: str, path: str, reviewer: str) -> Result:
    """Add the verdicts of a CSV to the log of a scores table, as one reviewer's; importing it again adds nothing.

    Raises:
        ManifestError: not a file of verdicts, or none of its images is in the table.
    """
    rows = verdict_rows(path)
    known = set(tables.read_scores(scores, ["image"])["image"].to_pylist())
    found = [row for row in rows if row["image"] in known]
    if rows and not found:
        raise ManifestError(
            f"none of the {len(rows)} images in {path} is in {scores}: it names {rows[0]['image']}. "
            "Name the folder of the scores that were reviewed."
        )
    judged = [_judgement(row) for row in found]
    content = repr([reviewer, *judged]).encode("utf-8", "surrogatepass")
    log = VerdictLog(scores)
    before = len(log.history())
    if judged:
        log.append(f"import-{hashlib.sha256(content).hexdigest()[:32]}", reviewer, judged)
    history = log.history()
    summary = {
        "verb": "review",
        "scores": scores,
        "address": "",
        "given": len(history) - before,
        "not_found": len(rows) - len(found),
        "verdicts": len(history),
    }
    return Result(summary, counts_by_reviewer(log))


def _judgement(row: dict[str, str]) -> Judgement:
    score = None
    with suppress(ValueError):
        score = float(row.get("score") or "")
    return Judgement(subject_of(row), row["verdict"], row.get("model") or "", score)  # type: ignore[arg-type]


def counts_by_reviewer(log: VerdictLog) -> dict[str, pd.DataFrame]:
    """The standing verdicts of each reviewer, for people."""
    standing = standing_of(log.history())
    table = as_table(one for by_reviewer in standing.values() for one in by_reviewer.values()).to_pandas()
    return {"verdicts": pd.crosstab(table["reviewer"], table["verdict"]).reset_index().rename_axis(None, axis=1)}
