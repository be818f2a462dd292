"""Wall time and peak memory of `score` for 10^4, 10^5 and 10^6 images, and what an image costs.

python benchmarks/scale.py [--counts 10000,100000,1000000] [--rounds 3]

What is real: files on a disk, each with a name of its own, listed, read, decoded and scored by the command itself in
a process of its own. What is not: the files are hard links to 1,000 drawn images of 32 px, and the network is tiny
(16 px, one convolution of 2 channels, random weights), so that a million of them take minutes. The time is therefore
that of everything around the network, and the memory that of the driver and of Ray. Ray's start varies by seconds, so
all counts but the largest take the median of some rounds.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from record import write_result

from crackvae.cores import usable_cores
from crackvae.images.synthetic import write_images
from crackvae.model import calibration
from crackvae.model.artifact import model_digest, model_files
from crackvae.model.calibration import Calibration
from crackvae.model.network import Network
from crackvae.model.spec import ModelSpec
from crackvae.storage import fileio

N_DRAWN, SIDE_PX = 1_000, 32
PER_FOLDER = 1_000
SAMPLE_S = 2.0  # one sample takes 0.1 s of a core
# Ray's own processes; the rest below the driver are the workers.
RAY_PROCESSES = ("raylet", "gcs_server", "ray::Dashboard", "ray::RuntimeEnv", "dashboard", "log_monitor", "monitor.py")


def main() -> None:
    """Score growing numbers of images and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="10000,100000,1000000", help="numbers of images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all counts but the largest (default: %(default)s)")
    parser.add_argument("--name", default="scale", help="name of the result (default: %(default)s)")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="crackvae-scale-") as scratch:
        folder = Path(scratch)
        write_images(folder / "drawn", N_DRAWN, 1, side_px=SIDE_PX, workers=usable_cores())
        drawn = sorted((folder / "drawn").rglob("*.jpg"))
        model = write_model(folder / "model")
        counts = [int(count) for count in arguments.counts.split(",")]
        for n in counts:
            night = link(drawn, folder / f"night-{n}", n)
            outs = [folder / f"scores-{n}-{number}" for number in range(1 if n == max(counts) else arguments.rounds)]
            for verb in ("first run", "rerun"):
                runs.append({"images": n, "run": verb} | summed([measured(night, model, out) for out in outs]))
                print(json.dumps(runs[-1]), flush=True)
    figures = {"what": " ".join((__doc__ or "").split("What is real: ")[1].split()), "runs": runs, **fitted(runs)}
    print(write_result(arguments.name, figures))


def write_model(folder: Path) -> Path:
    """A model directory with random weights, as small as a network can be."""
    torch.manual_seed(0)
    spec = ModelSpec(
        input_px=16, channels=(2,), latent_dim=2, segmenter=(), recipe="plain", tile_px=SIDE_PX, stride_px=SIDE_PX,
        head="mse", beta=1e-6, seed=0, manifest="", leaky=False,
    )  # fmt: skip
    weights = Network(spec).state_dict()
    made = Calibration(np.linspace(0, 1, 99, dtype=np.float32), 99, "made up", 0.5, model_digest(spec, weights), False)
    fileio.write_folder(
        str(folder), {calibration.FILE: calibration.calibration_file(made), **model_files(spec, weights, {})}
    )
    return folder


def link(drawn: list[Path], folder: Path, n: int) -> Path:
    """A folder of n images: a link has a name of its own and no bytes."""
    for number in range(n):
        path = folder / f"bridge-{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        os.link(drawn[number % len(drawn)], path)
    return folder


def measured(night: Path, model: Path, out: Path) -> dict[str, Any]:
    """Seconds and peak memory [MB] of one run: what processes do not share (USS), and the driver's shared pages."""
    command = [
        sys.executable,
        "-m",
        "crackvae",
        "score",
        "--images",
        night,
        "--model",
        model,
        "--out",
        out,
        "--quiet",
    ]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, env=env)
        peaks: dict[str, float] = {}
        watcher = threading.Thread(target=watch, args=(process, peaks))
        watcher.start()
        output = process.communicate()[0].decode()
        watcher.join()
        errors.seek(0)
        assert process.returncode == 0, errors.read().decode()[-2000:]
    summary = json.loads(output.splitlines()[-1])
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "images_per_s": round(summary["listed"] / seconds, 1),
        "scored": summary["scored"],
        **{f"{name}_mb": round(peak / 1e6, 1) for name, peak in sorted(peaks.items())},
    }


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of some equal runs the median time and the largest memory."""
    most = {name: max(one[name] for one in rounds) for name in rounds[0] if name.endswith("_mb")}
    by_time = sorted(rounds, key=lambda one: float(one["seconds"]))
    all_seconds = [one["seconds"] for one in by_time]
    return {"rounds": len(rounds), "all_seconds": all_seconds} | by_time[len(by_time) // 2] | most


def watch(process: "subprocess.Popen[bytes]", peaks: dict[str, float]) -> None:
    """Fill in the peaks of driver, workers, Ray's own processes and the object store until the process ends."""
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        now = {"driver": 0.0, "workers": 0.0, "ray": 0.0, "largest_worker": 0.0, "store": 0.0}
        try:
            for one in [driver, *driver.children(recursive=True)]:
                memory, name = one.memory_full_info(), " ".join(one.cmdline())
                if one == driver:
                    now["driver"], now["store"] = memory.uss, max(now["store"], memory.shared)
                elif any(part in name for part in RAY_PROCESSES):
                    now["ray"] += memory.uss
                else:
                    now["workers"] += memory.uss
                    now["largest_worker"] = max(now["largest_worker"], memory.uss)
        except psutil.Error:  # a process ended while it was looked at
            pass
        for name, value in now.items():
            peaks[name] = max(peaks.get(name, 0.0), value)
        time.sleep(SAMPLE_S)


def fitted(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What one image more costs, between each two neighbouring counts: the start of Ray cancels out."""
    first = [run for run in runs if run["run"] == "first run"]
    steps = []
    for one, more in itertools.pairwise(first):
        n = more["images"] - one["images"]
        steps.append(
            {
                "from": one["images"],
                "to": more["images"],
                "us_an_image": round(1e6 * (more["seconds"] - one["seconds"]) / n, 1),
                "driver_bytes_an_image": round(1e6 * (more["driver_mb"] - one["driver_mb"]) / n),
                "workers_bytes_an_image": round(1e6 * (more["workers_mb"] - one["workers_mb"]) / n),
            }
        )
    return {"fitted": steps}


if __name__ == "__main__":
    main()
