"""The log of verdicts beside a scores table: append-only, one small file per answer to a reviewer.

A file `OUT/_verdicts/<key>.json` holds one verdict per line as JSON, and is complete or absent. Its name is chosen by
the sender, so that a verdict that is sent again after a failure is stored once. On a disk it is flushed before append()
returns; in object storage it is one PUT.
"""

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict

from crackvae.errors import ConfigError, StorageError
from crackvae.storage import fileio, uris
from crackvae.storage.records import read_lines, write_lines
from crackvae.storage.tables import list_parts

FOLDER = "_verdicts"

# Verdicts, and what replaces one that its reviewer takes back.
AnyVerdict = Literal["crack", "sound", "joint", "unsure", ""]
WITHDRAWN: AnyVerdict = ""
# What a finding is, by its trace or by a verdict, that is no crack.
NO_CRACK = ("joint", "sound")

VERDICTS_SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("reviewer", pa.string()),
        ("image", pa.string()),
        ("finding", pa.string()),  # "": the verdict is on the whole image
        ("verdict", pa.string()),  # crack | sound | joint | unsure; "": the earlier one is taken back
        ("replaces", pa.string()),  # id of the reviewer's earlier verdict, or ""
        ("model", pa.string()),  # digest of the model whose score the reviewer saw
        ("score", pa.float64()),
        ("id", pa.string()),
    ]
)

# Files of the log that are read at once; a bucket answers each within tens of milliseconds.
READ_THREADS = 16

_KEY = re.compile(r"[A-Za-z0-9_-]{8,80}")
_FILE = re.compile(r"(?P<key>[A-Za-z0-9_-]{8,80})\.json")


class Verdict(BaseModel):
    """One line of the log; the columns of VERDICTS_SCHEMA."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    time: AwareDatetime
    reviewer: str
    image: str
    finding: str = ""
    verdict: AnyVerdict
    replaces: str = ""
    model: str = ""
    score: float | None = None
    id: str


class Subject(NamedTuple):
    """What a verdict is on: a finding, or with finding "" a whole image."""

    image: str
    finding: str = ""


@dataclass(frozen=True)
class Judgement:
    """What a reviewer says of a subject, and the model and score that were shown."""

    subject: Subject
    verdict: AnyVerdict
    model: str = ""
    score: float | None = None


# The standing verdicts on each subject, by reviewer.
Standing = dict[Subject, dict[str, Verdict]]


class VerdictLog:
    """The log of one scores table, kept in memory. Several servers may write to the same folder.

    Args:
        scores: folder of the scores table.

    Raises:
        StorageError: a file of the log is damaged, or storage does not answer.
    """

    def __init__(self, scores: str) -> None:
        self.folder = uris.join(scores, FOLDER)
        self._lock = threading.Lock()
        self._by_key: dict[str, tuple[Verdict, ...]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read what others have appended."""
        with self._lock:
            self._read_new()

    def _read_new(self) -> None:
        found = (match["key"] for name in fileio.list_files(self.folder) if (match := _FILE.fullmatch(name)))
        new = [key for key in found if key not in self._by_key]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            self._by_key |= zip(new, pool.map(self._read, new), strict=True)

    def _path(self, key: str) -> str:
        return uris.join(self.folder, f"{key}.json")

    def _read(self, key: str) -> tuple[Verdict, ...]:
        return tuple(read_lines(self._path(key), Verdict, "Restore it, or move it away."))

    def append(self, key: str, reviewer: str, judgements: Sequence[Judgement]) -> tuple[Verdict, ...]:
        """Store verdicts of one reviewer; they are safe when this returns.

        Args:
            key: chosen by the sender, 8 to 80 letters, digits, `-` and `_`. A key that is stored already changes
                nothing, and its verdicts are returned.

        Raises:
            ConfigError: not a key.
            StorageError: not stored; try again with the same key.
        """
        if not _KEY.fullmatch(key):
            raise ConfigError("the key of a verdict must have 8 to 80 letters, digits, - and _.")
        with self._lock:
            if key not in self._by_key:
                made = tuple(self._made(key, reviewer, judgements))
                write_lines(self._path(key), made)
                _flush_names(self.folder)
                self._by_key[key] = made
            return self._by_key[key]

    def _made(self, key: str, reviewer: str, judgements: Sequence[Judgement]) -> Iterable[Verdict]:
        history = self._in_order()
        now = datetime.now(UTC)
        if history and now <= history[-1].time:  # the later verdict counts, also after a clock was set back
            now = history[-1].time + timedelta(microseconds=1)
        standing = standing_of(history)
        for number, one in enumerate(judgements):
            before = standing.get(one.subject, {}).get(reviewer)
            yield Verdict(
                time=now + timedelta(microseconds=number),
                reviewer=reviewer,
                image=one.subject.image,
                finding=one.subject.finding,
                verdict=one.verdict,
                replaces=before.id if before else "",
                model=one.model,
                score=one.score,
                id=f"{key}.{number}",
            )

    def _in_order(self) -> list[Verdict]:
        return sorted((one for made in self._by_key.values() for one in made), key=lambda one: (one.time, one.id))

    def history(self) -> list[Verdict]:
        """Every verdict in order of time, also those that were replaced or taken back."""
        with self._lock:
            return self._in_order()


def _flush_names(folder: str) -> None:
    """Make the names of the files in a local folder survive a crash of the machine; a bucket needs no such call."""
    if not uris.is_local(folder):
        return
    with uris.storage_errors("write", folder):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def standing_of(history: Iterable[Verdict]) -> Standing:
    """The last verdict of each reviewer on each subject, without those that were taken back.

    Args:
        history: in order of time.
    """
    standing: Standing = {}
    for one in history:
        by_reviewer = standing.setdefault(Subject(one.image, one.finding), {})
        by_reviewer[one.reviewer] = one
    withdrawn = [(subject, name) for subject, by in standing.items() for name, one in by.items() if not one.verdict]
    for subject, name in withdrawn:
        del standing[subject][name]
    return {subject: by for subject, by in standing.items() if by}


def agreed(standing: Standing) -> dict[Subject, str]:
    """The verdict on each subject on which all its reviewers agree; `unsure` counts as no opinion.

    Reviewers who call the same place sound and joint agree that it is no crack: the verdict is the later of the two.
    """
    found: dict[Subject, str] = {}
    for subject, by_reviewer in standing.items():
        sure = sorted((one for one in by_reviewer.values() if one.verdict != "unsure"), key=lambda one: one.time)
        if sure and len({one.verdict == "crack" for one in sure}) == 1:
            found[subject] = sure[-1].verdict
    return found


def read_log(scores: str) -> list[Verdict]:
    """The verdicts of a folder of scores in order of time, none if nobody has judged yet.

    Raises:
        StorageError: the folder holds neither scores nor verdicts, a file of the log is damaged, or storage does not
            answer.
    """
    lines = VerdictLog(scores).history()
    if not lines and not list_parts(scores):
        raise StorageError(f"{scores} holds no scores: name the folder that crackvae score wrote as --out.")
    return lines


def logged_verdicts(scores: str) -> dict[str, str]:
    """The verdict on each image on which reviewers agree; an image with a cracked finding is cracked.

    That one finding is none says nothing about the rest of its image. Errors are those of read_log().
    """
    return of_images(agreed(standing_of(read_log(scores))))


def of_images(verdicts: Mapping[Subject, str]) -> dict[str, str]:
    """The verdict on each image of some subjects; see logged_verdicts()."""
    found: dict[str, str] = {}
    for subject, verdict in verdicts.items():
        if found.get(subject.image) != "crack" and (not subject.finding or verdict == "crack"):
            found[subject.image] = verdict
    return found


def with_verdicts(findings: pa.Table, scores: str) -> pa.Table:
    """with_standing(), of the log of a folder of scores."""
    return with_standing(findings, standing_in(scores) if findings.num_rows else {})


def with_standing(findings: pa.Table, standing: Standing) -> pa.Table:
    """Rows of findings with `verdict` as reviewers agree, or "".

    A finding that nobody has judged by itself has the verdict of its image if that is sound or joint: then no line of
    the image is a crack. That an image is cracked does not say which of its lines is.

    Args:
        findings: FINDINGS_SCHEMA.
    """
    subjects = map(Subject, findings["image"].to_pylist(), findings["finding"].to_pylist())
    found = [verdict or "" for verdict in verdicts_on(subjects, standing)]
    at = findings.schema.get_field_index("verdict")
    return findings.set_column(at, "verdict", pa.array(found, pa.string()))


def standing_in(scores: str) -> Standing:
    """The standing verdicts in a folder of scores. Errors are those of VerdictLog."""
    return standing_of(VerdictLog(scores).history())


def verdicts_on(findings: Iterable[Subject], standing: Standing) -> list[str | None]:
    """The verdict on each of some findings, as with_standing() describes it: "" without agreement.

    None means that nobody has judged the finding, neither by itself nor with its whole image.
    """
    verdicts = agreed(standing)
    whole = {image: verdict for image, verdict in of_images(verdicts).items() if verdict != "crack"}
    found: list[str | None] = []
    for subject in findings:
        if subject in standing:
            found.append(verdicts.get(subject, ""))
        else:
            is_judged = Subject(subject.image) in standing
            found.append(whole.get(subject.image, "") if is_judged else None)
    return found


def judged_kinds(findings: pa.Table) -> pa.ChunkedArray:
    """What each finding is: what reviewers agree on, which may be `sound`, or the kind that was traced.

    Args:
        findings: columns `kind` and `verdict`, as with_verdicts() returns them.
    """
    verdict = findings["verdict"]
    return pc.if_else(pc.equal(verdict, ""), findings["kind"], verdict)


def may_be_cracks(findings: pa.Table) -> pa.ChunkedArray:
    """Whether each finding is neither a joint nor sound; see judged_kinds()."""
    return pc.invert(pc.is_in(judged_kinds(findings), pa.array(NO_CRACK)))


def as_table(verdicts: Iterable[Verdict]) -> pa.Table:
    """Verdicts as a table with VERDICTS_SCHEMA; a score that is not known is NaN."""
    rows = [one.model_dump() | {"score": float("nan") if one.score is None else one.score} for one in verdicts]
    return pa.Table.from_pylist(rows, VERDICTS_SCHEMA)
