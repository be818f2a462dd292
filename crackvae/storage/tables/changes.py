"""The tables of changes: what became of each finding since the visit before, and how its photographs were compared.

They lie in a folder of their own, by default `_changes` in that of the later scores. Each comparison adds a part with
its rows, `<run>-00000.parquet`, and its pairs of photographs, `_pairs-<run>.parquet`.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.storage import fileio, tables
from crackvae.storage.tables.verdicts import Standing, Subject, may_be_cracks, verdicts_on
from crackvae.storage.uris import join

CLAIMS = ("new", "grown", "static", "gone")
STATUSES = (*CLAIMS, "not seen", "unmatched")

CHANGES_SCHEMA = pa.schema(
    [
        ("finding", pa.string()),  # at the later visit; "" where it was not traced there
        ("previous", pa.string()),  # the finding of the visit before, or ""
        ("history", pa.string()),  # the finding at the first visit that had it: the same over all visits
        ("image", pa.string()),  # "" where there is no later photograph
        ("previous_image", pa.string()),
        ("group", pa.string()),
        ("kind", pa.string()),  # crack | joint | unclear, at the later visit if it has the finding
        ("status", pa.string()),  # one of STATUSES
        ("reason", pa.string()),  # why nothing is claimed, or why it is static though traced at one visit only; or ""
        ("length_px", pa.float32()),  # in the place that both photographs show; NaN without the finding
        ("previous_length_px", pa.float32()),  # all pixels are those of the later photograph
        ("length_change_px", pa.float32()),  # later minus earlier; NaN without both
        ("length_change_low_px", pa.float32()),  # 90 % interval
        ("length_change_high_px", pa.float32()),
        ("width_px", pa.float32()),  # mean
        ("previous_width_px", pa.float32()),
        ("width_change_px", pa.float32()),
        ("width_change_low_px", pa.float32()),
        ("width_change_high_px", pa.float32()),
        ("mm_per_px", pa.float32()),  # of the later photograph; NaN where it is not known, as are all millimetres
        ("length_change_mm", pa.float32()),
        ("width_change_mm", pa.float32()),
        ("residual_px", pa.float32()),  # of the registration of the pair; NaN where it is unmatched
        ("taken", pa.timestamp("us", tz="UTC")),  # null where it is not known
        ("previous_taken", pa.timestamp("us", tz="UTC")),
        ("model", pa.string()),  # digest of the model that found both
        ("run", pa.string()),  # of the comparison
        ("verdict", pa.string()),  # of reviewers, see with_verdicts(); "" without
    ]
)

PAIRS_SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # the later photograph, or ""
        ("previous_image", pa.string()),
        ("group", pa.string()),
        ("status", pa.string()),  # compared | nothing found | unmatched | no partner
        ("reason", pa.string()),  # why nothing is claimed, or ""
        ("residual_px", pa.float32()),
        ("overlap", pa.float32()),  # share of the later photograph that the earlier one covers
        ("homography", pa.list_(pa.float64())),  # 9 numbers, row by row: (x, y) of the earlier one to the later one
        ("run", pa.string()),
    ]
)

# Column of compared pairs in which workers send changes to the driver.
CHANGES_COLUMN = "changes"
CHANGES_TYPE = pa.list_(pa.struct(list(CHANGES_SCHEMA)))


def folder_of(out: str) -> str:
    """The folder of the changes of a folder of scores."""
    return join(out, "_changes")


def pairs_path(folder: str, run: str) -> str:
    """Path of the pairs of a comparison."""
    return join(folder, f"_pairs-{run}.parquet")


def is_folder_of_changes(folder: str) -> bool:
    """Whether a folder holds a table of changes."""
    return any(fileio.exists(pairs_path(folder, run)) for run in tables.list_parts(folder))


def write_changes(folder: str, changes: pa.Table, pairs: pa.Table, run: str) -> str:
    """Write the rows and the pairs of a comparison, and its CSV, whose path is returned."""
    tables.write_table(pairs_path(folder, run), pairs)
    csv = join(folder, f"_changes-{run}.csv")
    fileio.write_bytes(csv, tables.csv_bytes(changes))
    tables.write_part(folder, changes, run, 0)
    return csv


def read_changes(folder: str) -> pa.Table:
    """All rows of CHANGES_SCHEMA in a folder, in order of their comparisons; none if there is no such folder.

    Of a pair of photographs that was compared several times, the rows of the latest comparison count, also if it found
    nothing and has none.

    Raises:
        StorageError: a part is incomplete or has other columns.
    """
    of_runs = tables.list_parts(folder)
    found = [tables.read_table(path, CHANGES_SCHEMA) for parts in of_runs.values() for path in parts]
    rows = pa.concat_tables(found) if found else CHANGES_SCHEMA.empty_table()
    pair = ["image", "previous_image"]
    keys = rows.select([*pair, "run"]).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    compared = [tables.read_table(pairs_path(folder, run), PAIRS_SCHEMA).select([*pair, "run"]) for run in of_runs]
    every = pa.concat_tables([*compared, keys.select([*pair, "run"])])
    last = every.group_by(pair).aggregate([("run", "max")]).rename_columns([*pair, "run"])
    kept = keys.join(last, [*pair, "run"], join_type="left semi")["row"]
    return rows.take(kept.sort() if kept.num_chunks else kept)


def with_status(findings: pa.Table, out: str) -> pa.Table:
    """FINDINGS_SCHEMA rows with `status` and `previous` as the last comparison of their photographs has them.

    Only comparisons in the folder of changes of `out` count, of findings by the same model. A finding about which they
    claim nothing has the status "".

    Raises:
        StorageError: a part of the changes is incomplete or has other columns.
    """
    claimed: dict[tuple[str, str], tuple[str, str]] = {}
    columns = read_changes(folder_of(out)).select(["finding", "previous", "status", "model"])
    for finding, previous, status, model in zip(*(column.to_pylist() for column in columns), strict=True):
        if finding:
            claimed[finding, model] = (status, previous) if status in CLAIMS else ("", "")
        elif status == "gone":
            claimed[previous, model] = (status, claimed.get((previous, model), ("", ""))[1])
    keys = zip(findings["finding"].to_pylist(), findings["model"].to_pylist(), strict=True)
    found = [claimed.get(key, ("", "")) for key in keys]
    for number, name in enumerate(("status", "previous")):
        column = pa.array([one[number] for one in found], pa.string())
        findings = findings.set_column(findings.schema.get_field_index(name), name, column)
    return findings


def rows_of(column: pa.ChunkedArray) -> pa.Table:
    """CHANGES_SCHEMA rows from a column of CHANGES_TYPE."""
    structs = pc.list_flatten(column).combine_chunks()
    return pa.Table.from_arrays(structs.flatten(), schema=CHANGES_SCHEMA)


def with_histories(changes: pa.Table, earlier: pa.Table) -> pa.Table:
    """Changes whose `history` goes back to the first visit.

    Args:
        changes: rows whose `history` goes back to the visit before.
        earlier: the changes at the visits before, in order of their comparisons.
    """
    known = earlier.filter(pc.not_equal(earlier["finding"], ""))
    first = dict(zip(known["finding"].to_pylist(), known["history"].to_pylist(), strict=True))
    column = pa.array([first.get(name, name) for name in changes["history"].to_pylist()], pa.string())
    return changes.set_column(changes.schema.get_field_index("history"), "history", column)


def with_verdicts(changes: pa.Table, before: Standing, after: Standing) -> pa.Table:
    """Changes with `verdict`: that on the later finding or, if nobody has judged it, that on the earlier one.

    What has grown since a verdict is to be judged again: only a verdict on the later finding counts.

    Args:
        before, after: the standing verdicts of both visits.
    """

    def of_visit(image: str, finding: str, standing: Standing) -> list[str | None]:
        subjects = list(map(Subject, changes[image].to_pylist(), changes[finding].to_pylist()))
        found = verdicts_on(subjects, standing)
        return [verdict if subject.finding else None for subject, verdict in zip(subjects, found, strict=True)]

    later, earlier = of_visit("image", "finding", after), of_visit("previous_image", "previous", before)
    has_grown = pc.equal(changes["status"], "grown").to_pylist()
    column = [
        ("" if grown else old or "") if new is None else new
        for new, old, grown in zip(later, earlier, has_grown, strict=True)
    ]
    return changes.set_column(changes.schema.get_field_index("verdict"), "verdict", pa.array(column, pa.string()))


def counts(changes: pa.Table) -> Mapping[str, int]:
    """Number of findings by status, joints and what reviewers call sound left out; every status has a number."""
    found = changes.filter(may_be_cracks(changes))["status"].value_counts().to_pylist()
    return dict.fromkeys(STATUSES, 0) | {one["values"]: one["counts"] for one in found}


def refuted(changes: pa.Table) -> pa.Table:
    """The changes that are no joint by their trace, and that reviewers call sound or a joint."""
    return changes.filter(pc.and_not(pc.not_equal(changes["kind"], "joint"), may_be_cracks(changes)))
