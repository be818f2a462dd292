"""Drawn structures over several visits with truth: what `crackvae change` calls new, grown, static and gone.

    python benchmarks/visits.py --work FOLDER [--photographs 12] [--megapixels 12] [--visits 4]

Each photograph shows five cracks: two static, one that grows, one that is new from the second visit on, and one that
is repaired before it. Each visit photographs them with another homography, exposure, shadow and noise, and from the
second visit on one of ten photographs is missing. The built-in model scores them, so cracks that it misses count.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from record import write_result
from scipy.spatial import KDTree

import crackvae
from crackvae.images import drawing, synthetic
from crackvae.images.registration import transformed
from crackvae.storage.tables import changes as table

KINDS = ("static", "static", "grown", "new", "gone")
# A finding belongs to the crack along which half of its points lie within this distance [px].
NEAR_PX = 8.0
MISSING = 0.1
FIRST_YEAR = 2023


def crack(seed: list[int], kind: str, visit: int, size: tuple[int, int], place: int) -> tuple[np.ndarray, float] | None:
    """Middle line (N, 2) and width [px] of a crack at a visit; None where there is none."""
    if (kind, visit > 0) in (("new", False), ("gone", True)):
        return None
    rng, (height, width) = np.random.default_rng(seed), size
    y, length = (place + rng.uniform(0.35, 0.65)) * height / len(KINDS), rng.uniform(0.45, 0.6) * width
    x = rng.uniform(0.12, 0.3) * width
    line_N2 = drawing.wander(rng, np.array([x, y]), np.array([x + length, y + rng.uniform(-0.05, 0.05) * height]))
    crack_px, share, wider_px = rng.uniform(4, 7), rng.uniform(1.05, 1.5), rng.uniform(0.5, 2)
    if kind != "grown":
        return line_N2, crack_px
    # The whole line is that of the last visit.
    n = round(len(line_N2) / share ** (3 - min(visit, 3)))
    return line_N2[:n], crack_px + wider_px * visit


def scene(number: int, visit: int, size: tuple[int, int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A surface with its cracks, uint8 (H, W), and the middle lines by crack."""
    height, width = size
    picture = synthetic.draw_concrete(np.random.default_rng([7, number]), height, width)
    lines: dict[int, np.ndarray] = {}
    coverage_HW = np.zeros(size, np.float32)
    for place, kind in enumerate(KINDS):
        drawn = crack([8, number, place], kind, visit, size, place)
        if drawn:
            line_N2, width_px = drawn
            quads = drawing.strip(np.random.default_rng([9, place]), line_N2, np.full(len(line_N2), width_px), 1.2)
            coverage_HW = np.maximum(coverage_HW, drawing.fill(quads, height, width))
            lines[place] = line_N2
    blurred = cv2.GaussianBlur(coverage_HW, (0, 0), 0.7)
    return drawing.shade(picture, 1 - np.float32(0.75) * blurred)[..., 0], lines


def photograph(path: Path, number: int, visit: int, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Write one photograph; returns the middle lines in its pixels."""
    rng = np.random.default_rng([10, number, visit])
    picture, lines = scene(number, visit, size)
    height, width = size
    angle, scale = rng.uniform(-0.05, 0.05), rng.uniform(0.92, 1.08)
    turn_22 = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle_2 = np.array([width, height]) / 2
    move_2 = middle_2 - turn_22 @ middle_2 + rng.uniform(-0.02, 0.02, 2) * (width, height)
    matrix_33 = np.vstack([np.c_[turn_22, move_2], [*(rng.uniform(-2e-5, 2e-5, 2) * 1000 / width), 1]])
    seen = cv2.warpPerspective(picture, matrix_33, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    seen *= rng.uniform(0.8, 1.15)
    edge = rng.uniform(0.2, 0.8) * width
    seen[:, int(edge) :] *= np.float32(rng.uniform(0.7, 1))
    seen += rng.standard_normal(size, np.float32) * 3
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return {place: transformed(matrix_33, line_N2) for place, line_N2 in lines.items()}


def crack_of(finding: dict[str, Any], lines: dict[int, np.ndarray]) -> int | None:
    """Which crack a finding is, if any."""
    points_K2 = np.c_[finding["x_px"], finding["y_px"]]
    points_K2 = points_K2[np.isfinite(points_K2).all(1)]
    shares = {place: float(np.mean(KDTree(line).query(points_K2)[0] < NEAR_PX)) for place, line in lines.items()}
    best = max(shares, key=shares.__getitem__, default=None)
    return best if best is not None and shares[best] >= 0.5 else None


def truth_of(kind: str, before: int) -> str:
    """What has become of a crack since an earlier visit."""
    return kind if kind in ("static", "grown") or before == 0 else "static" if kind == "new" else "none"


def visit_of(image: str) -> int:
    """The number of the visit that took a photograph."""
    return int(Path(image).parts[-3][:4]) - FIRST_YEAR


def compared(out: Path, visit: int, run: str, lines: dict[tuple[int, str], dict[int, np.ndarray]]) -> Counter[Any]:
    """(truth, claim) of every crack of every photograph of a comparison; "false" is a finding that is no crack."""
    findings = {row["finding"]: row for row in crackvae.read_findings(out).to_pylist()}
    rows = [row for row in table.read_changes(str(out / "_changes")).to_pylist() if row["run"] == run]
    claims: dict[tuple[str, int], set[str]] = {}
    counted: Counter[Any] = Counter()
    for row in rows:
        if row["kind"] == "joint":
            counted["joint", row["status"]] += 1
            continue
        is_later = bool(row["finding"])
        name = Path(row["image"] or row["previous_image"]).name
        there = lines[visit_of(row["image"] if is_later else row["previous_image"]), name]
        place = crack_of(findings[row["finding"] or row["previous"]], there)
        if place is None:
            counted["false", row["status"]] += 1
        else:
            claims.setdefault((name, place), set()).add(row["status"])
    for number, name in lines:
        before = [one for one, other in lines if other == name and one < visit]
        if number == visit and before:  # the last photograph before, where one is missing
            for place, kind in enumerate(KINDS):
                truth = truth_of(kind, max(before))
                if truth != "none":
                    for claim in claims.get((name, place), {"nothing"}):
                        counted[truth, claim] += 1
    return counted


def main() -> None:
    """Draw, score, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--visits", type=int, default=4)
    given = parser.parse_args()
    height = round((given.megapixels * 1e6 * 3 / 4) ** 0.5)
    size, out = (height, round(height * 4 / 3)), given.work / "scores"
    lines: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    counted, seconds = Counter[Any](), {"score": 0.0, "change": 0.0}
    rng = np.random.default_rng(11)
    for visit in range(given.visits):
        folder = given.work / f"{FIRST_YEAR + visit}-05-01"
        for number in range(given.photographs):
            if visit == 0 or rng.random() >= MISSING:
                name = f"{number:02d}.jpg"
                lines[visit, name] = photograph(folder / "wall" / name, number, visit, size)
        started = time.perf_counter()
        crackvae.score(images=folder, out=out, no_report=True, quiet=True)
        seconds["score"] += time.perf_counter() - started
        if visit:
            started = time.perf_counter()
            done = crackvae.change(before=out, after=out, quiet=True)
            seconds["change"] += time.perf_counter() - started
            print(visit, done.summary, flush=True)
            counted += compared(out, visit, done.summary["run"], lines)
    result = {"photographs": given.photographs, "megapixels": size[0] * size[1] / 1e6, "visits": given.visits}
    result |= {"seconds": seconds} | figures(counted)
    print(result)
    print(write_result("visits", result))


def figures(counted: Counter[Any]) -> dict[str, Any]:
    """Recall and precision of new and grown, and the whole table of truth and claim."""
    found: dict[str, Any] = {}
    for status in ("new", "grown"):
        right = counted[status, status]
        truth = sum(n for (one, _), n in counted.items() if one == status)
        claimed = sum(n for (one, claim), n in counted.items() if claim == status and one != "joint")
        found[status] = {"right": right, "of_true": truth, "of_claimed": claimed}
    found["static_called_grown"] = counted["static", "grown"]
    found["static"] = sum(n for (one, _), n in counted.items() if one == "static")
    return found | {"truth_and_claim": {f"{one}: {claim}": n for (one, claim), n in sorted(counted.items())}}


if __name__ == "__main__":
    main()
