"""How long the page of a night of a million rows takes to write, and how much memory.

    python benchmarks/page.py [--rows 1000000]

The rows are made up, in parts of 100,000 as `score` writes them, a tenth of them photographs of 400 tiles; the pictures
that the page shows are drawn. One process writes the page, as a user would; it is the one that is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from record import write_result

from crackvae.images.synthetic import write_images
from crackvae.model import calibration
from crackvae.model.artifact import model_digest, model_files
from crackvae.model.calibration import Calibration
from crackvae.model.network import Network
from crackvae.model.spec import ModelSpec
from crackvae.storage import fileio, tables

PART_ROWS = 100_000
PHOTOGRAPH_TILES = 20 * 20
RUN = "20260101T000000_000000"
MEASURE = """
import json, resource, sys, time
started = time.perf_counter()
from crackvae.cli import main
code = main(["report", "--scores", sys.argv[1], "--out", sys.argv[2], "--model", sys.argv[3]])
used = resource.getrusage(resource.RUSAGE_SELF)
seconds, cpu_seconds = time.perf_counter() - started, used.ru_utime + used.ru_stime
figures = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "peak_mb": round(used.ru_maxrss / 1024)}
print(json.dumps({"exit_code": code, **figures}))
"""


def main() -> None:
    """Make the table, write the page in a process of its own, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    n = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        digest = write_model(work / "model")
        write_images(work / "images", 100, 100, workers=1)
        pictures = sorted(str(path) for path in (work / "images").rglob("*.jpg"))
        for number, start in enumerate(range(0, n, PART_ROWS)):
            write_rows(work / "scores", number, start, min(PART_ROWS, n - start), n, pictures, digest)
        summary = {"run": RUN, "listed": n, "scored": n, "images": str(work / "images"), "flagged": n // 20}
        (work / "scores" / f"_summary-{RUN}.json").write_text(json.dumps(summary))
        command = [sys.executable, "-c", MEASURE, work / "scores", work / "page.html", work / "model"]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        figures = {"rows": n, **json.loads(lines[-1]), "report": json.loads(lines[-2])}
        figures["page_bytes"] = (work / "page.html").stat().st_size
    print(write_result("page", figures))


def write_model(folder: Path) -> str:
    """A model of the default size with random weights; returns its digest."""
    spec = ModelSpec(
        input_px=256,
        channels=(16, 32, 64, 256),
        latent_dim=128,
        segmenter=(16, 32, 64, 96),
        recipe="repair",
        tile_px=256,
        stride_px=192,
        head="evidence",
        beta=1e-6,
        seed=0,
        manifest="",
        leaky=False,
    )
    torch.manual_seed(0)
    weights = Network(spec).state_dict()
    digest = model_digest(spec, weights)
    made = Calibration(np.linspace(0, 1, 999, dtype=np.float32), 999, "made up", 0.95, digest, leaky=False)
    files = {calibration.FILE: calibration.calibration_file(made), **model_files(spec, weights, {})}
    fileio.write_folder(str(folder), files)
    return digest


def write_rows(scores: Path, number: int, start: int, n: int, total: int, pictures: list[str], digest: str) -> None:
    """One part. The highest scores of all belong to images that exist, so that the page has pictures to show."""
    rng = np.random.default_rng(number)
    score_N = rng.uniform(0, 0.99, n).astype(np.float32)
    images = [f"{scores}/bridge-{(start + k) % 500:03d}/camera-2/photograph-{start + k:08d}.jpg" for k in range(n)]
    every = max(1, total // len(pictures))
    for k in range(n):
        if (start + k) % every == 0 and (start + k) // every < len(pictures):
            images[k], score_N[k] = pictures[(start + k) // every], 1.0
    is_photograph_N = (np.arange(n) % 10 == 9) & (score_N < 1)
    side_N = np.where(is_photograph_N, 20, 1).astype(np.int32)
    tiles = [np.full(tiles, value, np.float32) for tiles, value in zip(side_N**2, score_N, strict=True)]
    columns = {name: [value] * n for name, value in tables.ADDED_COLUMNS.items()} | {
        "image": images,
        "group": [f"bridge-{(start + k) % 500:03d}" for k in range(n)],
        "status": ["scored"] * n,
        "error": [""] * n,
        "width": np.where(is_photograph_N, 3500, 227).astype(np.int32),
        "height": np.where(is_photograph_N, 3500, 227).astype(np.int32),
        "bytes": np.full(n, 6000),
        "modified": [datetime(2026, 1, 1, tzinfo=UTC)] * n,
        "score": score_N,
        "p_value": np.minimum(1, (1.001 - score_N.astype(float)) * side_N**2),
        "threshold": np.full(n, 0.95, np.float32),
        "flagged": score_N > 0.95,
        "rows": side_N,
        "cols": side_N,
        "tile_scores": pa.array(tiles, pa.list_(pa.float32())),
        "worst_x": np.zeros(n, np.int32),
        "worst_y": np.zeros(n, np.int32),
        "model": [digest] * n,
        "run": [RUN] * n,
    }
    table = pa.table({name: columns[name] for name in tables.SCORES_SCHEMA.names}, schema=tables.SCORES_SCHEMA)
    tables.write_part(str(scores), table, RUN, number)


if __name__ == "__main__":
    main()
