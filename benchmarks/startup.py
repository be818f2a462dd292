"""How long the first commands of a user take: wall-clock and processor seconds of the whole process.

    python benchmarks/startup.py [--images FOLDER] [--photographs FOLDER]

`crackvae --help`, `score` of one drawn image and of a hundred with their page, `demo`, with --images `score` of a
hundred of that folder, evenly spread, and with --photographs of that folder. Each runs in a process of its own, the
short ones several times; the processor seconds include children.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_result
from samples import every_nth

from crackvae.images.synthetic import write_images

N_SOUND, N_CRACKED = 90, 10
REPEATS = 3


def timed(arguments: list[str], folder: str, repeats: int) -> dict[str, Any]:
    """Median wall-clock and processor seconds of one `crackvae` call, each in a new folder."""
    wall, processor = [], []
    for _ in range(repeats):
        new = tempfile.mkdtemp(dir=folder)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "crackvae", *arguments]
        subprocess.run(command, cwd=new, check=True, capture_output=True)
        wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "wall_s": round(statistics.median(wall), 2), "processor_s": round(statistics.median(processor), 2),
        "repeats": repeats, "largest_process_so_far_mb": round(after.ru_maxrss / 1024),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of small images")
    parser.add_argument("--photographs", help="folder of complete photographs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "hundred"), N_SOUND, N_CRACKED, workers=1)
        one = str(next(Path(folder, "hundred").rglob("*.jpg")))
        runs = {"help": timed(["--help"], folder, REPEATS)}
        runs["one_image"] = timed(["score", one], folder, REPEATS)
        runs["hundred_images"] = timed(["score", str(Path(folder, "hundred"))], folder, REPEATS)
        runs["demo"] = timed(["demo"], folder, 1)
        if arguments.images:
            few = Path(folder, "images.txt")
            few.write_text("\n".join(every_nth(Path(arguments.images).resolve(), N_SOUND + N_CRACKED)))
            runs["hundred_of_these_images"] = timed(["score", f"@{few}"], folder, REPEATS)
        if arguments.photographs:
            runs["photographs"] = timed(["score", str(Path(arguments.photographs).resolve())], folder, 1)
    print(write_result("startup", {"load": os.getloadavg()[0], "runs": runs}))


if __name__ == "__main__":
    main()
