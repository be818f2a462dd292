"""A drawn BigTIFF of two gigapixels by windows: memory, a killed run that continues, and cracks across window borders.

`python benchmarks/gigapixel.py` draws white (no data) with ten patches of cracked concrete over borders of windows, and
two windows full of concrete. An S3 server on this machine holds the file and counts the bytes that it sends; the
built-in model scores it in one process without Ray, as one worker does it. The places of findings are compared with
those of gdallocationinfo (gdal-bin).
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from record import write_result

import crackvae
from crackvae.images.decoding.windows import places_in
from crackvae.storage.names.excerpts import excerpt_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from s3_server import Server, filesystem, upload

TILE_PX, STEP_PX, OVERLAP_PX, PATCH_PX = 512, 3584, 512, 900

# Pixel size [m], and the place of the upper left corner in UTM zone 32 north.
PIXEL_M, EAST_M, NORTH_M = 0.002, 500_000.0, 5_300_000.0

SCORE = """
import sys, crackvae
from crackvae.scoring import actors
actors.needs_ray = lambda images, config: False
crackvae.score(images=sys.argv[1], out=sys.argv[2], no_report=True, max_unreadable="0")
"""


def patches(width: int, height: int) -> dict[tuple[int, int], np.ndarray]:
    """Upper left corners [px] of ten cracked patches, whose middle lies where two or four windows overlap."""
    columns, rows = (range(1, length // STEP_PX) for length in (width, height))
    places = [(x, y) for y in rows for x in columns]
    chosen = [places[k * len(places) // 10] for k in range(10)]
    middle = OVERLAP_PX // 2 - PATCH_PX // 2
    return {
        (x * STEP_PX + middle, y * STEP_PX + middle + (k % 2) * 1500): _concrete(k, PATCH_PX, cracked=True)
        for k, (x, y) in enumerate(chosen)
    }


def _concrete(number: int, side_px: int, *, cracked: bool) -> np.ndarray:
    surface, _ = crackvae.synthetic.draw_image(11, number, cracked, side_px)
    return np.asarray(Image.fromarray(surface).convert("L"))


def tiles(width: int, height: int, drawn: dict[tuple[int, int], np.ndarray]) -> Iterator[np.ndarray]:
    """The tiles of the file, row by row."""
    sound = _concrete(99, 2048, cracked=False)
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            tile = np.full((TILE_PX, TILE_PX), 255, np.uint8)
            if top < 4096 and left < 2 * STEP_PX:  # two windows full of concrete
                tile[:] = sound[top % 2048 : top % 2048 + TILE_PX, left % 2048 : left % 2048 + TILE_PX]
            for (x, y), patch in drawn.items():
                y0, y1 = max(y, top), min(y + PATCH_PX, top + TILE_PX)
                x0, x1 = max(x, left), min(x + PATCH_PX, left + TILE_PX)
                if y0 < y1 and x0 < x1:
                    tile[y0 - top : y1 - top, x0 - left : x1 - left] = patch[y0 - y : y1 - y, x0 - x : x1 - x]
            yield tile


def draw(path: Path, width: int, height: int) -> list[tuple[int, int]]:
    """Write the file; returns the corners of its patches."""
    drawn = patches(width, height)
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32_632)
    tags = [
        (33550, "d", 3, (PIXEL_M, PIXEL_M, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, EAST_M, NORTH_M, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(
        path,
        tiles(width, height, drawn),
        shape=(height, width),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        compression="zlib",
        bigtiff=True,
        photometric="minisblack",
        metadata=None,
        extratags=tags,
    )
    return list(drawn)


def run(image: str, out: Path, *, kill: bool) -> tuple[float, float]:
    """Score in a process; returns its peak memory [MB] and seconds. With `kill`, end it when a part is written."""
    started, peak = time.monotonic(), 0
    with subprocess.Popen([sys.executable, "-c", SCORE, image, str(out)], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.2)
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
            if kill and list(out.glob("*.parquet")):
                process.kill()
    assert kill or process.returncode == 0, "scoring failed"
    return peak / 1000, time.monotonic() - started


def gdal_place(image: Path, longitude: float, latitude: float) -> tuple[int, int]:
    """Column and row [px] in which GDAL finds a place."""
    command = ["gdallocationinfo", "-xml", "-wgs84", str(image), str(longitude), str(latitude)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pixel, line = re.search(r'pixel="(-?\d+)" line="(-?\d+)"', answer).groups()  # type: ignore[union-attr]
    return int(pixel), int(line)


def places_that_agree(image: Path, out: Path) -> int:
    """Number of findings one end of which GDAL finds in the pixel that the table gives, or next to it."""
    agreed = 0
    for one in crackvae.read_findings(out).to_pylist():
        window = excerpt_of(one["image"])
        x, y = one["x_px"][0], one["y_px"][0]
        (latitude,), (longitude,) = places_in(one["image"], np.array([x + 0.5]), np.array([y + 0.5]))
        pixel, line = gdal_place(image, longitude, latitude)
        agreed += abs(pixel - window.x - x) <= 1 and abs(line - window.y - y) <= 1  # type: ignore[union-attr]
    return agreed


def figures_of(out: Path, corners: list[tuple[int, int]]) -> dict[str, Any]:
    """Rows, and the patches in which a finding lies."""
    rows = crackvae.read_scores(out).to_pandas()
    found = crackvae.read_findings(out).to_pylist()
    hit, beyond = set(), 0
    for one in found:
        left, top, w, h = (int(part.split("=")[1]) for part in one["image"].split("!/")[1].split(","))
        beyond += min(one["left_px"], one["top_px"]) < 0 or one["right_px"] > w or one["bottom_px"] > h
        x, y = left + np.nanmean(one["x_px"]), top + np.nanmean(one["y_px"])
        hit |= {k for k, (px, py) in enumerate(corners) if px <= x < px + PATCH_PX and py <= y < py + PATCH_PX}
    files = len(list(out.glob("*.parquet")))
    written = sum(crackvae.tables.read_parts([str(path)], ["image"]).num_rows for path in out.glob("*.parquet"))
    return {
        "windows": len(rows),
        "rows_written": written,
        "parts": files,
        "statuses": rows["status"].value_counts().to_dict(),
        "flagged": int(rows["flagged"].sum()),
        "traces_of_single_windows": sum(
            crackvae.tables.read_parts([str(path)], ["image"]).num_rows for path in out.glob("_findings/*.parquet")
        ),
        "findings": len(found),
        "findings_that_leave_their_window": beyond,
        "lengths_px": [round(one["length_px"]) for one in found],
        "kinds": [one["kind"] for one in found],
        "cracked_patches": len(corners),
        "patches_with_a_finding": len(hit),
    }


@contextmanager
def closing_server() -> Iterator[Server]:
    """An S3 server on this machine."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="50176x40448", help="width and height [px], multiples of 512")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "TZ": "UTC"}
    with tempfile.TemporaryDirectory() as folder, closing_server() as server:
        image, out = Path(folder) / "ortho.tif", Path(folder) / "out"
        started = time.monotonic()
        corners = draw(image, width, height)
        drawing_s, n_bytes = time.monotonic() - started, image.stat().st_size
        filesystem(server).create_dir("nights")
        upload(filesystem(server), "ortho.tif", image.read_bytes())
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint
        server.sent = 0
        killed = run("s3://nights/ortho.tif", out, kill=True)
        before = sum(crackvae.tables.read_parts([str(path)], ["image"]).num_rows for path in out.glob("*.parquet"))
        resumed = run("s3://nights/ortho.tif", out, kill=False)
        figures = {
            "size": arguments.size,
            "megapixels": round(width * height / 1e6),
            "bytes": n_bytes,
            "bytes_read_from_object_storage": server.sent,
            "drawing_s": round(drawing_s, 1),
            "rows_before_the_kill": before,
            "peak_memory_mb": round(max(killed[0], resumed[0])),
            "seconds": [round(killed[1], 1), round(resumed[1], 1)],
            **figures_of(out, corners),
            "findings_where_gdallocationinfo_finds_them": places_that_agree(image, out),
        }
    print(json.dumps(figures, indent=1))
    print(write_result("gigapixel", figures))


if __name__ == "__main__":
    main()
