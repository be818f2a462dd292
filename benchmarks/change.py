"""Registration of pairs of photographs: overlapping crops of METU, crops of other photographs, and one pair of 20 Mpx.

    python benchmarks/change.py --images metu-internal.zip --groups metu-groups.csv [--same 300] [--different 2000]
        [--drawn 60]

Groups of METU also join mirrored and rotated copies, and crops that overlap a common third one but not each other. So
a pair counts as overlapping if phase correlation, which shares nothing with the registration, finds a shift under
which the crops agree; the second crop is turned to the orientation in which they do. Other pairs are counted apart.
Into the second crop of overlapping sound pairs a crack is drawn, which `crackvae change` should call new.
"""

import argparse
import csv
import itertools
import random
import resource
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from record import write_result
from scipy.spatial import KDTree

import crackvae
from crackvae.images import decoding, drawing, registration, synthetic

# Correlation over the overlap, and share of the crop, from which on two crops count as overlapping.
SAME_CORRELATION, SAME_SHARE = 0.9, 0.25
# Different pairs are drawn among this many photographs, so that the features of each are computed once.
N_DIFFERENT = 120
# A finding is the drawn crack if most of it lies within this distance of its middle line [px].
NEAR_PX = 8.0


def orientations(pixels_HW: np.ndarray) -> list[np.ndarray]:
    """The eight rotations and reflections of an image."""
    return [np.ascontiguousarray(np.rot90(one, k)) for one in (pixels_HW, pixels_HW[:, ::-1]) for k in range(4)]


def overlap_correlation(first_HW: np.ndarray, second_HW: np.ndarray) -> float:
    """Correlation of two crops of one size under the shift that phase correlation finds; 0 for a small overlap."""
    height, width = first_HW.shape
    spectra = [np.fft.rfft2(one - one.mean(), (2 * height, 2 * width)) for one in (first_HW, second_HW)]
    cross = spectra[0] * spectra[1].conj()
    peak = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), (2 * height, 2 * width)).argmax()
    dy, dx = (
        (int(at) + side) % (2 * side) - side
        for at, side in zip(divmod(int(peak), 2 * width), (height, width), strict=True)
    )
    a = first_HW[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    b = second_HW[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
    if a.size < SAME_SHARE * first_HW.size or min(a.std(), b.std()) == 0:
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def same_pairs(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Pairs of one leak_group and different pictures."""
    members = defaultdict(list)
    for row in rows:
        members[row["leak_group"]].append(row)
    pairs = itertools.chain.from_iterable(itertools.combinations(group, 2) for group in members.values())
    return [(a["image"], b["image"]) for a, b in pairs if a["same_picture"] != b["same_picture"]]


def on_overlapping(archive: zipfile.ZipFile, rows: list[dict[str, str]], n: int, rng: random.Random) -> dict[str, Any]:
    """Residuals of overlapping crops; a pair that is unmatched counts as a failure."""
    pairs = same_pairs(rows)
    residuals, n_apart, reasons = [], 0, []
    for first, second in rng.sample(pairs, min(n, len(pairs))):
        pair = overlapping(archive, first, second)
        if pair is None:
            n_apart += 1
            continue
        found = registration.register(*pair)
        residuals.append(found.residual_px)
        reasons += [f"{first} {second}: {found.reason}"] if found.reason else []
    good = np.array(residuals)
    return {
        "pairs": len(residuals),
        "pairs_without_a_direct_overlap": n_apart,
        "share_below_1_5_px": float(np.mean(good < 1.5)),
        "median_residual_px": float(np.nanmedian(good)),
        "p95_residual_px": float(np.nanquantile(good, 0.95)),
        "unmatched": reasons,
    }


def overlapping(archive: zipfile.ZipFile, first: str, second: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Two crops, the second one turned as the first one; None if they do not overlap."""
    a, b = (decoding.decode(archive.read(name)) for name in (first, second))
    turned = max(orientations(b), key=lambda one: overlap_correlation(a, one))
    return (a, turned) if overlap_correlation(a, turned) >= SAME_CORRELATION else None


def with_crack(pair: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """The second crop with a crack, and its middle line (N, 2) of x and y; None if the first one shows no room."""
    first_HW, second_HW = pair
    height, width = second_HW.shape
    to_first_33 = np.linalg.inv(registration.register(first_HW, second_HW).matrix_33)
    for _ in range(100):
        start_2, angle = rng.uniform(20, (width - 20, height - 20)), rng.uniform(0, 2 * np.pi)
        end_2 = start_2 + rng.uniform(80, 140) * np.array([np.cos(angle), np.sin(angle)])
        line_N2 = drawing.wander(rng, start_2, end_2)
        inside = [
            (points_N2 >= 10).all() and (points_N2 <= (width - 10, height - 10)).all()
            for points_N2 in (line_N2, registration.transformed(to_first_33, line_N2))
        ]
        if all(inside):
            quads = drawing.strip(rng, line_N2, np.full(len(line_N2), rng.uniform(2.5, 5)), 1.2)
            filled_HW = cv2.GaussianBlur(drawing.fill(quads, height, width), (0, 0), 0.7)
            return (second_HW * (1 - rng.uniform(0.3, 0.7) * filled_HW)).round().astype(np.uint8), line_N2
    return None


def on_drawn(archive: zipfile.ZipFile, rows: list[dict[str, str]], n: int, rng: random.Random) -> dict[str, Any]:
    """What is claimed about a crack that is drawn into one of two overlapping sound crops, and about all else."""
    sound = [pair for pair in same_pairs(rows) if all(name.startswith("Negative/") for name in pair)]
    lines: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as work:
        before, after = (Path(work, visit) for visit in ("before", "after"))
        for folder in (before, after):
            folder.mkdir()
        for first, second in rng.sample(sound, len(sound)):
            pair = overlapping(archive, first, second)
            drawn = pair and with_crack(pair, np.random.default_rng(len(lines)))
            if pair and drawn:
                name = f"{len(lines):03d}.png"
                Image.fromarray(pair[0]).save(before / name)
                Image.fromarray(drawn[0]).save(after / name)
                lines[name] = drawn[1]
            if len(lines) == n:
                break
        out = Path(work, "changes")
        crackvae.change(before=before, after=after, out=out, no_report=True, quiet=True)
        changes = crackvae.read_changes(out).to_pylist()
        findings = {row["finding"]: row for row in crackvae.read_findings(out / "_scores").to_pylist()}
    claims: dict[str, set[str]] = {name: set() for name in lines}
    others: Counter[str] = Counter()
    for row in changes:
        name = Path(row["image"] or row["previous_image"]).name
        if row["finding"] and is_near(findings[row["finding"]], lines[name]):
            claims[name].add(row["status"])
        else:
            others[row["status"]] += 1
    claimed = Counter(" and ".join(sorted(one)) or "nothing" for one in claims.values())
    return {"pairs": len(lines), "claims_on_drawn_cracks": dict(claimed), "claims_on_all_else": dict(others)}


def is_near(finding: dict[str, Any], line_N2: np.ndarray) -> bool:
    """Whether most of a finding lies on a line."""
    points_K2 = np.stack([finding["x_px"], finding["y_px"]], axis=1).astype(float)
    apart_K, _ = KDTree(line_N2).query(points_K2[np.isfinite(points_K2[:, 0])])
    return bool((apart_K < NEAR_PX).mean() > 0.5)


def on_different(archive: zipfile.ZipFile, rows: list[dict[str, str]], n: int, rng: random.Random) -> dict[str, Any]:
    """Share of pairs of different groups that are refused."""
    one_each = list({row["leak_group"]: row["image"] for row in rows}.values())
    names = rng.sample(one_each, N_DIFFERENT)
    pixels = [decoding.decode(archive.read(name)) for name in names]
    wrong = []
    for a, b in rng.sample(list(itertools.permutations(range(N_DIFFERENT), 2)), n):
        if registration.register(pixels[a], pixels[b]).is_matched:
            wrong.append(f"{names[a]} {names[b]}")
    return {"pairs": n, "photographs": N_DIFFERENT, "refused": 1 - len(wrong) / n, "registered": wrong}


def on_large(seed: int = 5) -> dict[str, Any]:
    """A drawn pair of 20 Mpx with a known homography: seconds, memory and the true error at the corners."""
    rng = np.random.default_rng(seed)
    before = synthetic.draw_concrete(rng, 3660, 5470)[..., 0]
    matrix_33 = np.array([[0.93, -0.11, 320.0], [0.12, 0.95, -150.0], [4e-6, -3e-6, 1.0]])
    after = cv2.warpPerspective(before, matrix_33, before.shape[::-1], borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    after *= np.linspace(0.6, 1.1, after.shape[1], dtype=np.float32)  # a gradual shadow
    after += rng.standard_normal(after.shape, np.float32) * 3
    after = after.clip(0, 255).astype(np.uint8)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, used = time.perf_counter(), time.process_time()
    found = registration.register(before, after)
    used, wall = time.process_time() - used, time.perf_counter() - wall
    inside = registration.corners(before.shape) * 0.8 + np.array(before.shape[::-1]) * 0.1
    apart = registration.transformed(found.matrix_33, inside) - registration.transformed(matrix_33, inside)
    return {
        "megapixels": before.size / 1e6,
        "processor_s": used,
        "wall_s": wall,
        "peak_memory_of_the_process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "peak_memory_before_mb": memory_before / 1000,
        "residual_px": found.residual_px,
        "largest_true_error_px": float(np.hypot(*apart.T).max()),
        "reason": found.reason,
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--groups", required=True)
    parser.add_argument("--same", type=int, default=300)
    parser.add_argument("--different", type=int, default=2000)
    parser.add_argument("--drawn", type=int, default=60)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    large = on_large()
    print(large, flush=True)
    rows = list(csv.DictReader(Path(given.groups).read_text().splitlines()))
    with zipfile.ZipFile(given.images) as archive:
        same = on_overlapping(archive, rows, given.same, random.Random(1))
        print(same, flush=True)
        drawn = on_drawn(archive, rows, given.drawn, random.Random(3))
        print(drawn, flush=True)
        features = registration.features_of
        by_content = cache(
            lambda data, shape, reduced_px: features(np.frombuffer(data, np.uint8).reshape(shape), reduced_px)
        )
        registration.features_of = lambda pixels_HW, reduced_px: by_content(
            pixels_HW.tobytes(), pixels_HW.shape, reduced_px
        )
        different = on_different(archive, rows, given.different, random.Random(2))
    print(different, flush=True)
    print(write_result("change", {"overlapping": same, "different": different, "drawn": drawn, "large": large}))


if __name__ == "__main__":
    main()
