"""The folder for devices on 1,000 METU and SDNET2018 images: flags against those of `score`, and megapixels a second.

`python benchmarks/edge.py METU.zip SDNET.zip` installs numpy, Pillow and ONNX Runtime into an empty environment, and
runs the folder of the built-in model in it on one core. Seconds are those of the processor: other work does not count.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import write_result

import crackvae

PACKAGES = ("numpy", "pillow", "onnxruntime")
PHOTOGRAPH = (4000, 3000)


def unpacked(archive: Path, folder: Path, n: int, below: str = "") -> list[Path]:
    """Every k-th image of an archive below a folder, `n` in all."""
    with zipfile.ZipFile(archive) as whole:
        names = [name for name in whole.namelist() if name.lower().endswith(".jpg") and below in name]
        return [Path(whole.extract(names[k * len(names) // n], folder)) for k in range(n)]


def megapixels(images: list[Path]) -> float:
    """Of all images together."""
    pixels = 0
    for path in images:
        with Image.open(path) as image:
            pixels += image.width * image.height
    return pixels / 1e6


def empty_environment(folder: Path) -> Path:
    """The Python of an environment with PACKAGES alone, in the versions of this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pinned = [f"{name}=={version(name)}" for name in PACKAGES]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *pinned], check=True)
    return python


def run(python: Path, edge: Path, images: list[Path]) -> tuple[list[dict[str, Any]], float]:
    """Lines of the program on one core, and its processor time [s]."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(python), "-I", str(edge / "edge.py"), *map(str, images)]
    ended = on_one_core(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return [json.loads(line) for line in ended.stdout.splitlines()], seconds


def calibrating(sound: list[Path], folder: Path) -> dict[str, Any]:
    """Processor time and seconds of `crackvae calibrate` on some sound images, on one core."""
    (folder / "sound").mkdir()
    for path in sound:
        (folder / "sound" / path.name).symlink_to(path)
    command = [sys.executable, "-m", "crackvae", "calibrate", "--images", str(folder / "sound")]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ended = on_one_core([*command, "--out", str(folder / "calibrated")])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "images": json.loads(ended.stdout.splitlines()[-1])["n"],
        "processor_s": round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def on_one_core(command: list[str]) -> "subprocess.CompletedProcess[str]":
    core = min(os.sched_getaffinity(0))
    return subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("metu", type=Path)
    parser.add_argument("sdnet", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [
            *unpacked(arguments.metu, folder / "images" / "metu", 500),
            *unpacked(arguments.sdnet, folder / "images" / "sdnet", 500),
        ]
        crackvae.export(out=folder / "edge", kind="edge", quiet=True)
        crackvae.score(images=folder / "images", out=folder / "scores", findings="off", no_report=True, quiet=True)
        rows = {row["image"]: row for row in crackvae.read_scores(folder / "scores").to_pylist()}
        python = empty_environment(folder / "environment")
        surface, _ = crackvae.synthetic.draw_image(5, 1, True, max(PHOTOGRAPH))
        photograph = folder / "photograph.png"
        Image.fromarray(surface[: PHOTOGRAPH[1], : PHOTOGRAPH[0]]).save(photograph)
        _, loading_s = run(python, folder / "edge", images[:1])
        found, seconds = run(python, folder / "edge", images)
        (large,), large_s = run(python, folder / "edge", [photograph])
        scored = [one for one in found if rows[one["image"]]["status"] == "scored"]
        differences = [abs(one["score"] - rows[one["image"]]["score"]) for one in scored]
        others = [one["image"] for one in scored if one["flagged"] != rows[one["image"]]["flagged"]]
        figures = {
            "images": len(images),
            "compared": len(scored),
            "flagged": sum(one["flagged"] for one in scored),
            "flags_that_differ": len(others),
            "scores_of_these": [
                [one["score"], rows[one["image"]]["score"]] for one in scored if one["image"] in others
            ],
            "largest_difference_of_scores": round(float(np.max(differences)), 6),
            "bytes": {path.name: path.stat().st_size for path in (folder / "edge").iterdir()},
            "loading_s": round(loading_s, 2),
            "megapixels_per_s": round(megapixels(images) / (seconds - loading_s), 2),
            "calibrate": calibrating(unpacked(arguments.metu, folder / "unpacked", 300, "Negative/"), folder),
            "photograph": {
                "megapixels": PHOTOGRAPH[0] * PHOTOGRAPH[1] / 1e6,
                "tiles": large["tiles"],
                "megapixels_per_s": round(PHOTOGRAPH[0] * PHOTOGRAPH[1] / 1e6 / (large_s - loading_s), 2),
            },
        }
    print(json.dumps(figures, indent=1))
    print(write_result("edge", figures))


if __name__ == "__main__":
    main()
