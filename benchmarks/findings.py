"""Findings on drawn photographs of 20 Mpx whose cracks and joints are known, by the built-in model.

    python benchmarks/findings.py [--photographs 12] [--seed 1] [--work FOLDER]    # FOLDER keeps the photographs

Cracks are at least 3 px wide and 100 px long, with blur, noise and contrast drawn for each photograph; a joint crosses
the whole photograph. Prints and writes: cracks that are one finding, errors of length and width, how many of them their
uncertainties cover, kinds, and the processor time of scoring with and without findings.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import write_result
from scipy import ndimage
from scipy.spatial import KDTree

import crackvae
from crackvae.images import drawing, synthetic
from crackvae.scoring import actors
from crackvae.storage.tables.findings import COVERS_90, read_findings

HEIGHT, WIDTH = 3648, 5472
N_CRACKS, N_JOINTS = 6, 2
# Distance within which a point of a finding lies on a drawn line [px], beside half of the line's width.
NEAR_PX = 8.0
# Cracks are drawn at least this far apart [px]: nearer ones are one crack to a viewer, too.
APART_PX = 150.0
# Length of the steps of drawing.wander() [px].
STEP_PX = 3.0
# Shares of a finding that lies on one line, and of the line that it covers, for "one finding".
OWN_SHARE, COVERED_SHARE = 0.9, 0.9


def draw_photograph(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Grey levels uint8 (H, W), and the lines in them: kind, points (N, 2) of x and y, length and width [px]."""
    surface_HW = np.asarray(Image.fromarray(synthetic.draw_concrete(rng, HEIGHT, WIDTH)).convert("L"), np.float32)
    lines = [_joint(rng) for _ in range(N_JOINTS)]
    while len(lines) < N_JOINTS + N_CRACKS:
        crack = _crack(rng)
        others = [line["points"] for line in lines if line["kind"] == "crack"]
        if not others or KDTree(np.concatenate(others)).query(crack["points"])[0].min() > APART_PX:
            lines.append(crack)
    coverage_HW = np.zeros((HEIGHT, WIDTH), np.float32)
    for line in lines:
        roughness = 0.15 if line["kind"] == "crack" else 0.0
        halves_N2 = line["width"] / 2 * rng.normal(1, roughness, (len(line["points"]), 2)).clip(0.5, 1.5)
        area_px = _add(coverage_HW, drawing.outline(line["points"], halves_N2), line["contrast"])
        # What is drawn is .1 to .3 px wider: drawing.fill() counts the subpixels on an outline as inside.
        line["width"] = area_px / float(np.hypot(*np.diff(line["points"].clip(0, (WIDTH, HEIGHT)), axis=0).T).sum())
    photograph_HW = ndimage.gaussian_filter(surface_HW * (1 - coverage_HW), rng.uniform(0.5, 2.5))
    photograph_HW += rng.standard_normal((HEIGHT, WIDTH), np.float32) * np.float32(rng.uniform(0.5, 3))
    return photograph_HW.clip(0, 255).astype(np.uint8), lines


def _crack(rng: np.random.Generator) -> dict[str, Any]:
    length_px = np.exp(rng.uniform(np.log(130), np.log(2000)))
    angle = rng.uniform(0, 2 * np.pi)
    reach_2 = length_px * np.array([np.cos(angle), np.sin(angle)])
    start_2 = rng.uniform(100 + np.maximum(-reach_2, 0), np.array([WIDTH, HEIGHT]) - 100 - np.maximum(reach_2, 0))
    width_px = float(rng.uniform(3, 12))
    # Bends finer than the width are no part of a line's length: they only make its edges rough.
    steps = width_px / 2 / STEP_PX
    points_N2 = ndimage.gaussian_filter1d(drawing.wander(rng, start_2, start_2 + reach_2), steps, axis=0)
    return _line("crack", points_N2, width_px, float(rng.uniform(0.25, 0.6)))


def _joint(rng: np.random.Generator) -> dict[str, Any]:
    across = rng.uniform(0.1, 0.9, 2)
    ends_22 = [(0.0, HEIGHT * across[0]), (WIDTH - 1.0, HEIGHT * (across[0] + rng.normal(0, 0.02)))]
    if rng.random() < 0.5:
        ends_22 = [(WIDTH * across[0], 0.0), (WIDTH * (across[0] + rng.normal(0, 0.02)), HEIGHT - 1.0)]
    n = round(float(np.hypot(*np.subtract(*ends_22))) / 3)
    return _line("joint", np.linspace(*ends_22, n), float(rng.uniform(3, 10)), float(rng.uniform(0.25, 0.6)))


def _line(kind: str, points_N2: np.ndarray, width_px: float, contrast: float) -> dict[str, Any]:
    length_px = float(np.hypot(*np.diff(points_N2, axis=0).T).sum())
    return {"kind": kind, "points": points_N2, "length": length_px, "width": width_px, "contrast": contrast}


def _add(coverage_HW: np.ndarray, quads_N42: np.ndarray, contrast: float) -> float:
    """Darken the pixels that a line covers, in blocks of steps, so that only their boxes are filled; their area."""
    area_px = 0.0
    for block_N42 in np.array_split(quads_N42, max(1, len(quads_N42) // 60)):
        (left, top), (right, bottom) = block_N42.min(axis=(0, 1)) - 1, block_N42.max(axis=(0, 1)) + 2
        x, y = max(0, int(left)), max(0, int(top))
        part = coverage_HW[y : max(0, int(bottom)), x : max(0, int(right))]
        if part.size:
            filled = drawing.fill(block_N42 - (x, y), *part.shape)
            np.maximum(part, contrast * filled, out=part)
            area_px += float(filled.sum())
    return area_px


def draw_photographs(work: Path, n: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The lines of each photograph by its name; photographs that an earlier run has drawn into the folder are kept."""
    images, truth = work / "images", {}
    images.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        drawn = work / f"{number:03d}.json"
        if not drawn.exists():
            pixels_HW, lines = draw_photograph(np.random.default_rng((seed, number)))
            Image.fromarray(pixels_HW).save(images / f"{number:03d}.png", compress_level=1)
            drawn.write_text(json.dumps([line | {"points": line["points"].tolist()} for line in lines]))
        lines = json.loads(drawn.read_text())
        truth[f"{number:03d}.png"] = [line | {"points": np.array(line["points"])} for line in lines]
    return truth


def compare(lines: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each line its findings: how many pieces, whether it is one finding, its kind, and the errors of that one."""
    traces = [np.stack([one["x_px"], one["y_px"]], axis=1) for one in found]
    traces = [trace[~np.isnan(trace[:, 0])] for trace in traces]
    return [_compare(line, found, traces) for line in lines]


def _compare(line: dict[str, Any], found: list[dict[str, Any]], traces: list[np.ndarray]) -> dict[str, Any]:
    near_px = NEAR_PX + line["width"] / 2
    fine_N2 = np.concatenate([np.linspace(a, b, 4) for a, b in zip(line["points"], line["points"][1:], strict=False)])
    tree = KDTree(fine_N2)
    own = [(tree.query(trace)[0] < near_px).mean() for trace in traces]
    mine = [number for number, share in enumerate(own) if share > 0.5]
    on_line = [number for number, share in enumerate(own) if share * found[number]["length_px"] > 0.3 * line["length"]]
    result = {key: line[key] for key in ("kind", "length", "width", "contrast")} | {"pieces": len(mine)}
    points = [traces[number] for number in mine]
    covered = (KDTree(np.concatenate(points)).query(fine_N2)[0] < near_px).mean() if points else 0.0
    kinds: Counter[str] = Counter()
    for number in mine:
        kinds[found[number]["kind"]] += found[number]["length_px"]
    result |= {"covered": float(covered), "named": max(kinds, key=lambda kind: kinds[kind]) if kinds else ""}
    result["merged"] = any(bool(own[number] < OWN_SHARE) for number in on_line)
    result["one"] = len(mine) == 1 and bool(covered >= COVERED_SHARE) and not result["merged"]
    if len(mine) == 1:
        one = found[mine[0]]
        for name, true in (("length", line["length"]), ("width_mean", line["width"]), ("width_max", line["width"])):
            sigma_px = one[f"{name.removesuffix('_mean')}_sigma_px"]
            result[f"{name}_covered"] = bool(abs(one[f"{name}_px"] - true) <= COVERS_90 * sigma_px)
            result[f"{name}_error"] = one[f"{name}_px"] - true
        result["length_error"] /= line["length"]
    return result


def summary(results: list[dict[str, Any]], n_found: int) -> dict[str, Any]:
    """The figures of all lines."""
    cracks = [one for one in results if one["kind"] == "crack"]
    joints = [one for one in results if one["kind"] == "joint" and one["named"]]
    single = [one for one in cracks if one["one"]]
    seen = [one for one in cracks if one["named"]]

    def share(values: list[bool]) -> float:
        return round(float(np.mean(values)), 3) if values else float("nan")

    return {
        "cracks": len(cracks),
        "found": share([bool(one["named"]) for one in cracks]),
        "one_finding": share([one["one"] for one in cracks]),
        "merged": share([one["merged"] for one in cracks]),
        "cracks_named_crack": share([one["named"] == "crack" for one in seen]),
        "joints_found": len(joints),
        "joints_named_joint": share([one["named"] == "joint" for one in joints]),
        "length_within_5_percent": share([abs(one["length_error"]) <= 0.05 for one in single]),
        "median_length_error": round(float(np.median([one["length_error"] for one in single])), 4),
        "width_within_half_px": share([abs(one["width_mean_error"]) <= 0.5 for one in single]),
        "median_width_error_px": round(float(np.median([one["width_mean_error"] for one in single])), 3),
        "length_covered": share([one["length_covered"] for one in single]),
        "width_covered": share([one["width_mean_covered"] for one in single]),
        "median_width_max_error_px": round(float(np.median([one["width_max_error"] for one in single])), 3),
        "width_max_covered": share([one["width_max_covered"] for one in single]),
        "other_findings": n_found - sum(one["pieces"] for one in results),
    }


def processor_seconds(images: Path, out: Path, findings: str) -> float:
    """Processor time of one scoring in this process [s]."""
    before = time.process_time()
    crackvae.score(images=str(images), out=str(out), findings=findings, no_report=True, quiet=True)
    return time.process_time() - before


def main() -> None:
    """Draw, score, compare, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photographs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="crackvae-findings-"))
    truth, images = draw_photographs(work, args.photographs, args.seed), work / "images"
    actors.FEW_BYTES = 10**12  # all in this process, whose time is measured
    with tempfile.TemporaryDirectory() as folder:  # a new one: a rerun into the same table has nothing to score
        scores = Path(folder)
        processor_seconds(images / min(truth), scores / "warm-up", "on")
        seconds = {how: processor_seconds(images, scores / how, how) for how in ("off", "on")}
        found = read_findings(str(scores / "on")).to_pylist()
    results = []
    for name, lines in truth.items():
        mine = [
            {**one, **{k: np.array(one[k], float) for k in ("x_px", "y_px")}}
            for one in found
            if one["image"].endswith(f"/{name}")
        ]
        results += compare(lines, mine)
    figures = summary(results, len(found)) | {
        "photographs": args.photographs,
        "seed": args.seed,
        "processor_seconds": {how: round(value, 1) for how, value in seconds.items()},
        "cost": round(seconds["on"] / seconds["off"], 3),
    }
    print(json.dumps(figures, indent=1))
    write_result("findings", figures | {"lines": results})


if __name__ == "__main__":
    main()
