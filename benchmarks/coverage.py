"""Keep the coverage of the fast tests as a dated result: python benchmarks/coverage.py FILE.json (`make coverage`)."""

import json
import sys
from pathlib import Path

from record import write_result


def figures(report: dict) -> dict:
    """Shares of executed lines and branches, in all and for each top-level part of the package [%]."""
    parts: dict[str, list[int]] = {}
    for name, file in report["files"].items():
        part = Path(name).relative_to("crackvae").parts[0].removesuffix(".py")
        counts = parts.setdefault(part, [0, 0])
        counts[0] += file["summary"]["covered_lines"]
        counts[1] += file["summary"]["num_statements"]
    totals = report["totals"]
    return {
        "tests": "make test-fast: no Ray, browser, server, package or slow test",
        "lines_percent": round(100 * totals["covered_lines"] / totals["num_statements"], 1),
        "branches_percent": round(100 * totals["covered_branches"] / totals["num_branches"], 1),
        "parts_lines_percent": {name: round(100 * a / b, 1) for name, (a, b) in sorted(parts.items()) if b},
    }


if __name__ == "__main__":
    print(write_result("coverage", figures(json.loads(Path(sys.argv[1]).read_text()))))
