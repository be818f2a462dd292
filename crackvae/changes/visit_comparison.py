"""Two visits compared: their findings by one model, the pairs of photographs, the rows of the table, and the page."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.changes.comparison import TO_COMPARE_SCHEMA
from crackvae.changes.spread import compare_pairs
from crackvae.changes.visits import Alike, Visit, scored_alike
from crackvae.config import ScoringConfig
from crackvae.images.pictures import read_pixels
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.storage import fileio, tables, uris
from crackvae.storage.lock import locked
from crackvae.storage.tables import changes as table
from crackvae.storage.tables.verdicts import may_be_cracks, standing_in

NO_EARLIER = "no earlier photograph of its place"
NO_LATER = "no later photograph of its place"

# Columns of the printed table, and its rows.
PRINTED = ("status", "image", "finding", "length_px", "length_change_px", "width_px", "width_change_px")
N_PRINTED = 12


@dataclass(frozen=True)
class Compared:
    """What a comparison of two visits has found; its tables are written.

    Attributes:
        folder: of the table of changes.
        summary: JSON values.
        changes, pairs: CHANGES_SCHEMA and PAIRS_SCHEMA of this comparison.
        findings: FINDINGS_SCHEMA of both visits.
    """

    folder: str
    summary: dict[str, Any]
    changes: pa.Table
    pairs: pa.Table
    findings: pa.Table

    def important(self) -> pd.DataFrame:
        """What is new and has grown, as it is printed; the longest first."""
        is_shown = pc.and_(
            pc.is_in(self.changes["status"], value_set=pa.array(["new", "grown"])),
            may_be_cracks(self.changes),
        )
        rows = self.changes.filter(is_shown).select(list(PRINTED))
        order = [("status", "descending"), ("length_px", "descending")]
        return pd.DataFrame(rows.sort_by(order).slice(0, N_PRINTED).to_pandas())


def compare_visits(
    before: Visit,
    after: Visit,
    partners: Mapping[str, str],
    folder: str,
    config: ScoringConfig,
    *,
    model_dir: str,
    unpaired: bool,
) -> Compared:
    """Compare the findings of the pairs of two visits and write the tables.

    Args:
        partners: the earlier photograph of each later one that has one.
        folder: of the table of changes; its earlier comparisons give the histories.
        model_dir: model directory for photographs that have to be scored again, or "" for the recorded one.
        unpaired: whether photographs without a partner have a row.
    """
    started = time.perf_counter()
    fileio.require_writable(folder)
    run = tables.new_run(tables.list_parts(folder))
    with locked(folder, run, quiet=config.quiet):
        verdicts = {visit.out: standing_in(visit.out) for visit in (before, after)}
        alike = scored_alike((before, after), {*partners, *partners.values()}, folder, config, model_dir)
        todo = _to_compare(before, after, partners, alike, run, unpaired=unpaired)
        compared = compare_pairs(todo, config)
        changes = table.with_histories(table.rows_of(compared[table.CHANGES_COLUMN]), table.read_changes(folder))
        changes = table.with_verdicts(changes, verdicts[before.out], verdicts[after.out])
        pairs = compared.select(table.PAIRS_SCHEMA.names)
        csv = table.write_changes(folder, changes, pairs, run)
    summary = {
        "run": run,
        "out": folder,
        **_pair_counts(pairs),
        "scored_again": alike.scored_again,
        **{status.replace(" ", "_"): n for status, n in table.counts(changes).items()},
        "judged_no_crack": table.refuted(changes).num_rows,
        "model": alike.model,
        "csv": csv,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return Compared(folder, summary, changes, pairs, alike.findings)


def _pair_counts(pairs: pa.Table) -> dict[str, int]:
    n = {one["values"]: one["counts"] for one in pairs["status"].value_counts().to_pylist()}
    names = {"compared": "compared", "nothing_found": "nothing found", "unmatched_pairs": "unmatched"}
    counted = {name: n.get(status, 0) for name, status in names.items()}
    return {"pairs": sum(counted.values()), **counted, "no_partner": n.get("no partner", 0)}


def _to_compare(
    before: Visit, after: Visit, partners: Mapping[str, str], alike: Alike, run: str, *, unpaired: bool
) -> pa.Table:
    """TO_COMPARE_SCHEMA: the pairs in order of the later photographs, then what has no partner."""
    both = [(image, partners[image]) for image in after.images if image in partners]
    if unpaired:
        taken = set(partners.values())
        both += [(image, "") for image in after.images if image not in partners]
        both += [("", image) for image in before.images if image not in taken]
    earlier, later = (alike.by_image([pair[number] for pair in both]) for number in (1, 0))
    n_found = pc.add(pc.list_value_length(earlier), pc.list_value_length(later)).to_pylist()
    rows = {row["image"]: row for visit in (before, after) for row in _last_rows(visit)}
    columns = {
        "image": [image for image, _ in both],
        "previous_image": [previous for _, previous in both],
        "group": [rows[image or previous]["group"] for image, previous in both],
        "reason": [_reason(*pair, alike.reasons) for pair in both],
        "before": earlier,
        "after": later,
        "run": [run] * len(both),
        "bytes": [
            sum(rows[name]["bytes"] for name in pair if name and n) for pair, n in zip(both, n_found, strict=True)
        ],
    }
    return pa.table(columns, schema=TO_COMPARE_SCHEMA)


def _last_rows(visit: Visit) -> Iterable[dict[str, Any]]:
    rows: list[dict[str, Any]] = visit.rows.select(["image", "group", "bytes"]).to_pylist()
    return rows


def _reason(image: str, previous: str, reasons: Mapping[str, str]) -> str:
    """Why a pair cannot be compared, where that is known before its photographs are read, or ""."""
    if not previous:
        return NO_EARLIER
    if not image:
        return NO_LATER
    if image == previous:
        return "both visits have the same file"
    known = {"the later photograph": reasons.get(image), "the earlier photograph": reasons.get(previous)}
    return next((f"{which}: {why}" for which, why in known.items() if why), "")


def write_page(compared: Compared, summary: Mapping[str, Any], shown: int) -> str:
    """Write the page of a comparison and return its path.

    Args:
        summary: of the verb, with the fields before and after.
        shown: largest number of findings with pictures.
    """
    with matplotlib_folder(compared.folder):
        from crackvae.changes.page import change_page  # imported here: it imports Matplotlib

        html = change_page(
            {**summary, "shown": shown},
            compared.changes,
            compared.pairs,
            table.read_changes(compared.folder),
            compared.findings,
            read_pixels,
        )
    path = uris.join(compared.folder, f"_change-{summary['run']}.html")
    fileio.write_bytes(path, html)
    return path
