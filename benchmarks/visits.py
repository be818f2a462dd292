"""Drawn structures over several visits with truth: what `crackvae change` calls new, grown, static and gone.

    python benchmarks/visits.py --work FOLDER [--photographs 12] [--megapixels 12] [--visits 4] [--seed 1]

Each photograph shows fourteen cracks: nine static, two that grow at every visit, two that are new from the second visit
on, and one that is repaired before it. Each visit photographs them with another homography, exposure, shadow and noise,
and from the second visit on one of ten photographs is missing. The built-in model scores them, so cracks that it misses
count. All work is done in this process, so that its processor time is the cost.
"""

import argparse
import json
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
from crackvae.scoring import actors
from crackvae.storage.tables import changes as table

# What becomes of the cracks of a photograph, in two columns.
KINDS = (*["static"] * 5, "grown", "new", *["static"] * 4, "grown", "new", "gone")
ROWS, COLUMNS = 7, 2
# Cracks leave this share of the surface free at each side, so that every photograph shows them whole.
FREE = 0.12
# A finding belongs to the crack along which half of its points lie within this distance [px].
NEAR_PX = 8.0
MISSING = 0.1
FIRST_YEAR = 2023


def crack(seed: list[int], kind: str, visit: int, size: tuple[int, int], place: int) -> tuple[np.ndarray, float] | None:
    """Middle line (N, 2) and width [px] of a crack at a visit; None where there is none."""
    if (kind, visit > 0) in (("new", False), ("gone", True)):
        return None
    rng = np.random.default_rng(seed)
    height, width = (1 - 2 * FREE) * size[0] / ROWS, (1 - 2 * FREE) * size[1] / COLUMNS
    top, left = FREE * size[0] + place % ROWS * height, FREE * size[1] + place // ROWS * width
    x, y = left + rng.uniform(0.05, 0.25) * width, top + rng.uniform(0.4, 0.6) * height
    end_2 = np.array([x + rng.uniform(0.5, 0.65) * width, y + rng.uniform(-0.1, 0.1) * height])
    line_N2 = drawing.wander(rng, np.array([x, y]), end_2)
    crack_px, share, wider_px = rng.uniform(4, 7), rng.uniform(1.05, 1.5), rng.uniform(0.5, 2)
    if kind != "grown":
        return line_N2, crack_px
    # The whole line is that of the last visit.
    n = round(len(line_N2) / share ** (3 - min(visit, 3)))
    return line_N2[:n], crack_px + wider_px * visit


def cracks_of(seed: int, number: int, visit: int, size: tuple[int, int]) -> dict[int, tuple[np.ndarray, float]]:
    """Middle lines and widths of the cracks of a surface at a visit, by their place."""
    each = ((place, crack([seed, 8, number, place], kind, visit, size, place)) for place, kind in enumerate(KINDS))
    return {place: drawn for place, drawn in each if drawn}


def cracked(surface_HW3: np.ndarray, seed: int, number: int, visit: int) -> np.ndarray:
    """A surface with its cracks at a visit, uint8 (H, W)."""
    height, width = surface_HW3.shape[:2]
    quads = [
        drawing.strip(np.random.default_rng([seed, 9, number, place]), line_N2, np.full(len(line_N2), width_px), 1.2)
        for place, (line_N2, width_px) in cracks_of(seed, number, visit, (height, width)).items()
    ]
    blurred_HW = cv2.GaussianBlur(drawing.fill(np.concatenate(quads), height, width), (0, 0), 0.7)
    return drawing.shade(surface_HW3, 1 - np.float32(0.75) * blurred_HW)[..., 0]


def view(seed: int, number: int, visit: int, size: tuple[int, int]) -> np.ndarray:
    """The homography from a surface to its photograph at a visit."""
    rng, (height, width) = np.random.default_rng([seed, 10, number, visit]), size
    angle, scale = rng.uniform(-0.08, 0.08), rng.uniform(0.85, 1.1)
    turn_22 = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle_2 = np.array([width, height]) / 2
    move_2 = middle_2 - turn_22 @ middle_2 + rng.uniform(-0.02, 0.02, 2) * (width, height)
    # The scale differs by up to 4 % between opposite sides of a photograph.
    return np.vstack([np.c_[turn_22, move_2], [*(rng.uniform(-0.04, 0.04, 2) / width), 1]])


def photograph(path: Path, surface_HW3: np.ndarray, seed: int, number: int, visit: int) -> None:
    """Write the photograph of a surface at a visit: its view, exposure, the edge of a shadow, and noise."""
    height, width = surface_HW3.shape[:2]
    picture, rng = cracked(surface_HW3, seed, number, visit), np.random.default_rng([seed, 12, number, visit])
    matrix_33 = view(seed, number, visit, (height, width))
    seen = cv2.warpPerspective(picture, matrix_33, (width, height), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    seen *= rng.uniform(0.8, 1.15)
    seen[:, int(rng.uniform(0.2, 0.8) * width) :] *= np.float32(rng.uniform(0.7, 1))
    seen += rng.standard_normal((height, width), np.float32) * 3
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def photographs(given: argparse.Namespace, size: tuple[int, int]) -> dict[tuple[int, str], dict[int, np.ndarray]]:
    """Write the photographs of all visits, but for those that are there; the lines of the cracks in their pixels."""
    lines: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    for number in range(given.photographs):
        rng, name = np.random.default_rng([given.seed, 11, number]), f"{number:02d}.jpg"
        surface_HW3 = None
        for visit in range(given.visits):
            if rng.random() < MISSING and visit:
                continue
            path = folder_of(given.work, visit) / "wall" / name
            if not path.exists():
                if surface_HW3 is None:
                    surface_HW3 = synthetic.draw_concrete(np.random.default_rng([given.seed, 7, number]), *size)
                photograph(path, surface_HW3, given.seed, number, visit)
            matrix_33 = view(given.seed, number, visit, size)
            cracks = cracks_of(given.seed, number, visit, size)
            lines[visit, name] = {place: transformed(matrix_33, line_N2) for place, (line_N2, _) in cracks.items()}
    return lines


def folder_of(work: Path, visit: int) -> Path:
    """The folder of the photographs of a visit."""
    return work / f"{FIRST_YEAR + visit}-05-01"


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


def compared(
    out: Path, visit: int, run: str, lines: dict[tuple[int, str], dict[int, np.ndarray]]
) -> list[dict[str, Any]]:
    """Truth and claim of every crack of every photograph of a comparison; the truth "false" is that of no crack."""
    findings = {row["finding"]: row for row in crackvae.read_findings(out).to_pylist()}
    rows = [row for row in table.read_changes(str(out / "_changes")).to_pylist() if row["run"] == run]
    claims: dict[tuple[str, int], set[str]] = {}
    found: list[dict[str, Any]] = []
    for row in rows:
        is_later = bool(row["finding"])
        name = Path(row["image"] or row["previous_image"]).name
        there = lines[visit_of(row["image"] if is_later else row["previous_image"]), name]
        place = crack_of(findings[row["finding"] or row["previous"]], there)
        if row["kind"] == "joint" or place is None or (visit, name) not in lines:
            truth = "joint" if row["kind"] == "joint" else "false" if (visit, name) in lines else "missing"
            found.append({"photograph": name, "place": place, "truth": truth, "claim": row["status"]})
        else:
            claims.setdefault((name, place), set()).add(row["status"])
    for number, name in lines:
        before = [one for one, other in lines if other == name and one < visit]
        if number == visit and before:  # the last photograph before, where one is missing
            for place, kind in enumerate(KINDS):
                truth = truth_of(kind, max(before))
                each = claims.get((name, place), {"nothing"}) if truth != "none" else ()
                found += [{"photograph": name, "place": place, "truth": truth, "claim": claim} for claim in each]
    return [{"visit": visit} | one for one in found]


def main() -> None:
    """Draw, score, compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--visits", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    actors.needs_ray = lambda images, config: False
    height = round((given.megapixels * 1e6 * 3 / 4) ** 0.5)
    size, out = (height, round(height * 4 / 3)), given.work / "scores"
    lines, found = photographs(given, size), list[dict[str, Any]]()
    seconds = {"score": 0.0, "change": 0.0}
    for visit in range(given.visits):
        started = time.process_time()
        crackvae.score(images=folder_of(given.work, visit), out=out, no_report=True, quiet=True)
        seconds["score"] += (time.process_time() - started) * (visit > 0)
        if visit:
            started = time.process_time()
            done = crackvae.change(before=out, after=out, no_report=True, quiet=True)
            seconds["change"] += time.process_time() - started
            print(visit, done.summary, flush=True)
            found += compared(out, visit, done.summary["run"], lines)
    wrong = [one for one in found if one["claim"] != one["truth"]]
    (given.work / "wrong.json").write_text("\n".join(map(json.dumps, wrong)) + "\n")
    result = {"photographs": given.photographs, "megapixels": size[0] * size[1] / 1e6, "visits": given.visits}
    result |= {"seed": given.seed, "processor_seconds": seconds} | figures(found)
    print(json.dumps(result, indent=1))
    print(write_result("visits", result))


def figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Recall and precision of new and grown, and the whole table of truth and claim."""
    counted = Counter((one["truth"], one["claim"]) for one in found)
    result: dict[str, Any] = {}
    for status in ("new", "grown"):
        right = counted[status, status]
        truth = sum(n for (one, _), n in counted.items() if one == status)
        claimed = sum(n for (one, claim), n in counted.items() if claim == status and one != "joint")
        result[status] = {"right": right, "of_true": truth, "of_claimed": claimed}
    result["static_called_grown"] = counted["static", "grown"]
    result["static"] = sum(n for (one, _), n in counted.items() if one == "static")
    result["claims_on_missing_photographs"] = sum(n for (one, _), n in counted.items() if one == "missing")
    return result | {"truth_and_claim": {f"{one}: {claim}": n for (one, claim), n in sorted(counted.items())}}


if __name__ == "__main__":
    main()
