"""Names of the files of a run in the folder of its table. Each has the name of the run, its start time, in it.

All but the parts begin with `_`, which readers of the folder as one dataset skip, and with a word for what they hold.
"""

import re
from collections.abc import Iterable

# The words of this module, and of those that write a lock, a night, discoveries or changes beside a table.
_WORDS = (
    *("summary", "scores", "report", "drift", "compact", "staged", "lock", "probe"),
    *("nightly", "discoveries", "change", "changes", "pairs"),
)
_OF_A_RUN = re.compile(rf"_({'|'.join(_WORDS)})-.+|\d{{8}}T\d{{6}}_\d{{6}}(\.\d+of\d+)?-\d{{5}}\.parquet")

_PART = re.compile(r"(?P<run>.+)-\d{5}\.parquet")
_SUMMARY = re.compile(r"_summary-(?P<run>.+)\.json")
_HISTOGRAMS = re.compile(r"_drift-(?P<run>[^@]+)(@(?P<night>[^@]+))?\.json")
_JOURNAL = re.compile(r"_compact-.+\.json")


def is_of_a_run(name: str) -> bool:
    """Whether a file has a name that crackvae gives to those of its runs and nights, its parts included."""
    return bool(_OF_A_RUN.fullmatch(name))


def part_name(run: str, number: int) -> str:
    """Name of a numbered part of the table."""
    return f"{run}-{number:05d}.parquet"


def run_of_part(name: str) -> str | None:
    """The run in the name of a part; None for any other file."""
    found = _PART.fullmatch(name)
    return found["run"] if found else None


def csv_name(run: str) -> str:
    """Name of the rows of a run as a CSV."""
    return f"_scores-{run}.csv"


def page_name(run: str) -> str:
    """Name of the page of a run."""
    return f"_report-{run}.html"


def summary_name(run: str) -> str:
    """Name of the summary of a run; that it exists means that the run has ended."""
    return f"_summary-{run}.json"


def ended_runs(names: Iterable[str]) -> list[str]:
    """The runs with a summary among some files, oldest first."""
    return sorted(found["run"] for name in names if (found := _SUMMARY.fullmatch(name)))


def histograms_name(run: str, night: str = "") -> str:
    """Name of the histograms of a run, with the night that the run belongs to, if any."""
    return f"_drift-{run}@{night}.json" if night else f"_drift-{run}.json"


def counted_runs(names: Iterable[str]) -> dict[str, str]:
    """The runs with histograms among some files, and the night that each belongs to, or ""."""
    found = (_HISTOGRAMS.fullmatch(name) for name in names)
    return {one["run"]: one["night"] or "" for one in found if one}


def journal_name(run: str) -> str:
    """Name of the journal of a compaction, which says which parts replace which; it exists until they have."""
    return f"_compact-{run}.json"


def journals(names: Iterable[str]) -> list[str]:
    """The journals among some files, sorted."""
    return sorted(name for name in names if _JOURNAL.fullmatch(name))
