"""What a round of a fault costs: images lost, rows twice, wrong scores; kept in a dated JSON file and shown as a table.

python tests/chaos/rounds.py      # puts the table of the newest results into docs/operate.md
"""

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

HOUSE = Path(__file__).parent.parent.parent
RUN_BOOK = HOUSE / "docs" / "operate.md"
START, END = "<!-- faults: written by tests/chaos/rounds.py -->\n", "<!-- end of faults -->\n"


@dataclass(frozen=True)
class Round:
    """One round of one fault, after the run that was left to finish.

    Attributes:
        kind: process, storage or image.
        fault: in words, the same for all its rounds.
        lost: images without a row. twice: rows too many. wrong: rows that differ from those of an undisturbed run.
        recover_s: seconds from the end of the fault until the table was complete.
    """

    kind: str
    fault: str
    lost: int
    twice: int
    wrong: int
    recover_s: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or changed."""
        return not (self.lost or self.twice or self.wrong)


def compared(wanted: pa.Table, found: pa.Table) -> dict[str, int]:
    """Images lost, rows twice and wrong scores of a table, by one of an undisturbed run."""
    wanted_rows = {row["image"]: row for row in wanted.drop_columns(["run"]).to_pylist()}
    found_rows = found.drop_columns(["run"]).to_pylist()
    times = Counter(row["image"] for row in found_rows)
    return {
        "lost": len(wanted_rows.keys() - times.keys()),
        "twice": sum(count - 1 for count in times.values()),
        "wrong": sum(repr(row) != repr(wanted_rows.get(row["image"])) for row in found_rows),
    }


def summed(rounds: list[Round]) -> list[dict[str, Any]]:
    """One row a fault, in the order in which they came."""
    faults: dict[tuple[str, str], list[Round]] = {}
    for one in rounds:
        faults.setdefault((one.kind, one.fault), []).append(one)
    return [
        {
            "kind": kind,
            "fault": fault,
            "rounds": len(ones),
            **{name: sum(getattr(one, name) for one in ones) for name in ("lost", "twice", "wrong")},
            "recover_s": round(sorted(one.recover_s for one in ones)[len(ones) // 2], 1),
            "recover_s_most": round(max(one.recover_s for one in ones), 1),
        }
        for (kind, fault), ones in faults.items()
    ]


class Played:
    """The rounds of one session, and other figures of it under `notes`."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.notes: dict[str, Any] = {}

    def require_clean(self, kind: str, fault: str, counts: dict[str, int], *, since: float) -> None:
        """Keep a round and require it clean; `counts` as of compared(), `since` when the fault was over (monotonic)."""
        self.rounds.append(Round(kind, fault, **counts, recover_s=time.monotonic() - since))
        assert self.rounds[-1].is_clean, self.rounds[-1]

    def write(self) -> Path:
        """The dated JSON file of a long round; faults that were not played keep their rounds of the same day."""
        sys.path.insert(0, str(HOUSE / "benchmarks"))
        from record import RESULTS, write_result

        today = RESULTS / f"chaos-{datetime.now(UTC):%Y-%m-%d}.json"
        before = json.loads(today.read_text()) if today.exists() else {"rounds": [], "notes": {}}
        names = {(one.kind, one.fault) for one in self.rounds}
        kept = [Round(**one) for one in before["rounds"] if (one["kind"], one["fault"]) not in names]
        rounds = sorted([*kept, *self.rounds], key=lambda one: (one.kind, one.fault))
        figures = {"faults": summed(rounds), "notes": before["notes"] | self.notes}
        return write_result("chaos", figures | {"rounds": [asdict(one) for one in rounds]})


def newest() -> Path | None:
    """The last results that were written."""
    return max((HOUSE / "benchmarks" / "results").glob("chaos-*.json"), default=None)


def table(result: dict[str, Any], name: str) -> str:
    """The table of the run-book, in Markdown."""
    lines = [
        "| | fault | rounds | images lost | rows twice | wrong scores | recovered after [s], median (most) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["faults"]:
        counts = f"{row['rounds']} | {row['lost']} | {row['twice']} | {row['wrong']}"
        lines.append(
            f"| {row['kind']} | {row['fault']} | {counts} | {row['recover_s']:g} ({row['recover_s_most']:g}) |"
        )
    total = sum(row["rounds"] for row in result["faults"])
    lines += ["", f"{total} rounds in all, from `benchmarks/results/{name}` ({result['machine']})."]
    return "\n".join(lines) + "\n"


def main() -> None:
    path = newest()
    assert path is not None, "no results yet: make chaos"
    before, _, rest = RUN_BOOK.read_text().partition(START)
    after = rest.partition(END)[2]
    RUN_BOOK.write_text(before + START + table(json.loads(path.read_text()), path.name) + END + after)


if __name__ == "__main__":
    main()
