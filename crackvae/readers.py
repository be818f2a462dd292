"""The public functions that read tables: `read_scores`, `read_findings`, `read_changes` and `read_verdicts`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crackvae.config.settings import suggestion
from crackvae.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa


def read_scores(
    scores: str | os.PathLike[str], columns: Sequence[str] | None = None, *, s3_endpoint: str = ""
) -> "pa.Table":
    """Read a scores table: the latest row of each image and model, sorted by image.

    Args:
        scores: folder of the scores table, a path or a URI.
        columns: columns to read; default: all.
        s3_endpoint: S3 server other than Amazon's, http://HOST:PORT.

    Returns:
        pyarrow.Table; `.to_pandas()` makes a DataFrame of it.

    Raises:
        ConfigError: a column that the table does not have.
        StorageError: the folder holds no scores table, or a part of it is damaged.

    Example:
        >>> rows = crackvae.read_scores("scores", ["image", "score", "flagged"]).to_pandas()
    """
    from crackvae.storage import tables, uris
    from crackvae.storage.filesystems import s3_server

    folder = uris.absolute(os.fspath(scores))
    wanted = _known(columns, tables.SCORES_SCHEMA.names, "the scores table")
    with s3_server(s3_endpoint):
        if not tables.list_parts(folder):
            raise StorageError(f"{folder} holds no scores table: check the path.")
        return tables.read_scores(folder, wanted)


def read_findings(
    scores: str | os.PathLike[str], columns: Sequence[str] | None = None, *, s3_endpoint: str = ""
) -> "pa.Table":
    """Read the findings of a scores table: one row per crack or joint in a flagged image.

    Only findings of the latest row of each image and model count. A finding keeps its id while its image and its model
    stay the same.

    Args:
        scores: folder of the scores table, a path or a URI.
        columns: columns to read; default: all.
        s3_endpoint: S3 server other than Amazon's, http://HOST:PORT.

    Returns:
        pyarrow.Table, sorted by image, the longest finding of an image first. Lengths and widths are in pixels of the
            image, with standard uncertainties, and in millimetres where the scale is known, otherwise NaN. `status` is
            new, grown, static or gone where `change` or `nightly` has compared the image with that of another visit and
            the table of changes lies in the folder of scores, otherwise ""; `previous` is the finding of the visit
            before. `verdict` is that on which reviewers agree, of the finding or, if nobody has judged it by itself, of
            an image that they call sound or joint; otherwise "".

    Raises:
        ConfigError: a column that the table does not have.
        StorageError: the folder holds no scores table, or a part of it is damaged.

    Example:
        >>> cracks = crackvae.read_findings("scores", ["image", "kind", "length_px", "width_mean_px"]).to_pandas()
    """
    from crackvae.storage import tables, uris
    from crackvae.storage.filesystems import s3_server
    from crackvae.storage.tables import changes, findings, verdicts

    folder = uris.absolute(os.fspath(scores))
    wanted = _known(columns, findings.FINDINGS_SCHEMA.names, "the findings table")
    with s3_server(s3_endpoint):
        if not tables.list_parts(folder):
            raise StorageError(f"{folder} holds no scores table: check the path.")
        if not {"status", "previous", "verdict"}.intersection(wanted):
            return findings.read_findings(folder, wanted).select(wanted)
        rows = changes.with_status(findings.read_findings(folder), folder)
        return verdicts.with_verdicts(rows, folder).select(wanted)


def read_changes(
    scores: str | os.PathLike[str], columns: Sequence[str] | None = None, *, s3_endpoint: str = ""
) -> "pa.Table":
    """Read the table of changes: one row for each finding of each comparison of two visits, in their order.

    Of two photographs that were compared several times, the rows of the last comparison count.

    Args:
        scores: folder of the later scores, or the `--out` of `change`; a path or a URI.
        columns: columns to read; default: all.
        s3_endpoint: S3 server other than Amazon's, http://HOST:PORT.

    Returns:
        pyarrow.Table with the status new, grown, static, gone, not seen or unmatched, lengths and widths at both
            visits, and their differences with 90 % intervals; all in pixels of the later image. `kind` is that of the
            trace, and `verdict` what reviewers agreed on when the comparison ran: on the later finding or, if nobody
            had judged it and it has not grown, on the earlier one; otherwise "". Summaries and pages leave out sound
            ones and joints.

    Raises:
        ConfigError: a column that the table does not have.
        StorageError: there is no table of changes, or a part of it is damaged.

    Example:
        >>> changes = crackvae.read_changes("scores", ["image", "status", "length_change_px"]).to_pandas()
    """
    from crackvae.storage import uris
    from crackvae.storage.filesystems import s3_server
    from crackvae.storage.tables import changes

    given = uris.absolute(os.fspath(scores))
    wanted = _known(columns, changes.CHANGES_SCHEMA.names, "the table of changes")
    with s3_server(s3_endpoint):
        folders = (changes.folder_of(given), given)
        folder = next((one for one in folders if changes.is_folder_of_changes(one)), "")
        if not folder:
            raise StorageError(f"{given} holds no table of changes: run crackvae change, or check the path.")
        return changes.read_changes(folder).select(wanted)


def _known(columns: Sequence[str] | None, names: list[str], table: str) -> list[str]:
    """The columns, or all; raises ConfigError for one that the table does not have, and for a text."""
    if isinstance(columns, str):  # a sequence of letters
        raise ConfigError(f"columns={columns!r} must be a list: [{columns!r}].")
    wanted = names if columns is None else list(columns)
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"columns: {table} has no column {name!r}{suggestion(name, names)}. Known: {', '.join(names)}."
            )
    return list(wanted)


def read_verdicts(scores: str | os.PathLike[str], *, history: bool = False, s3_endpoint: str = "") -> "pa.Table":
    """Read the verdicts that reviewers gave with `crackvae review`, in order of time.

    Args:
        scores: folder of the scores table, a path or a URI.
        history: also return verdicts that their reviewer has replaced or taken back (verdict "").
        s3_endpoint: S3 server other than Amazon's, http://HOST:PORT.

    Returns:
        pyarrow.Table with the columns time, reviewer, image, finding, verdict, replaces, model, score and id; by
            default the last verdict of each reviewer on each image or finding. Empty if there is no verdict yet.

    Raises:
        StorageError: the folder holds neither scores nor verdicts, a file of the log is damaged, or storage does not
            answer.

    Example:
        >>> verdicts = crackvae.read_verdicts("scores").to_pandas()
    """
    from crackvae.storage import uris
    from crackvae.storage.filesystems import s3_server
    from crackvae.storage.tables import verdicts

    with s3_server(s3_endpoint):
        lines = verdicts.read_log(uris.absolute(os.fspath(scores)))
    if not history:
        standing = verdicts.standing_of(lines)
        kept = {one.id for by_reviewer in standing.values() for one in by_reviewer.values()}
        lines = [one for one in lines if one.id in kept]
    return verdicts.as_table(lines)
