"""How long the page takes for a photograph of 16 Mpx that it shows in the queue and whole, with every tile.

    python benchmarks/photographs.py --model MODEL [--photographs 4] [--rounds 3] [--package OTHER_CHECKOUT ...]

Draws photographs, every second one with a crack, scores them, and writes their page in a process of its own, once with
all of them and once with none; the difference, divided by their number, is the time of one. With --package the same
scores are measured with other versions of the package, in turns, because other work on the machine varies.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from record import write_result

from crackvae.config import ScoreConfig
from crackvae.images.synthetic import draw_concrete, draw_crack
from crackvae.scoring.verb import score

HEIGHT, WIDTH = 3464, 4618
MEASURE = """
import json, resource, sys, time
from crackvae.cli import main
started = time.perf_counter()
code = main(["report", "--quiet", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"exit_code": code, "seconds": time.perf_counter() - started, "cpu_s": used.ru_utime + used.ru_stime}))
"""


def main() -> None:
    """Draw, score, write pages in turns, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--photographs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--package", action="append", default=[], help="checkout of another version, measured too")
    given = parser.parse_args()
    here = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "images"), given.photographs)
        score(ScoreConfig(images=(f"{folder}/images",), model=given.model, out=f"{folder}/scores", no_report=True))
        rounds = [
            {package: seconds_per_photograph(folder, given.model, given.photographs, package) for package in packages}
            for packages in [[here, *given.package]] * given.rounds
        ]
    figures = {
        "photographs": given.photographs,
        "megapixels": HEIGHT * WIDTH / 1e6,
        "load_average": os.getloadavg()[1],
        "per_photograph": {
            commit_of(package): {
                name: [round(one[package][name], 2) for one in rounds]
                + [f"median {median(one[package][name] for one in rounds):.2f}"]
                for name in ("seconds", "cpu_s")
            }
            for package in rounds[0]
        },
    }
    print(json.dumps(figures, indent=1))
    print(write_result("photographs", figures))


def draw(folder: Path, n: int) -> None:
    """Write photographs of concrete, every second one with a crack."""
    folder.mkdir()
    for number in range(n):
        rng = np.random.default_rng(number)
        pixels = draw_concrete(rng, HEIGHT, WIDTH)
        pixels = pixels if number % 2 else draw_crack(rng, pixels)[0]
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=92)


def seconds_per_photograph(folder: str, model: str, n: int, package: str) -> dict[str, float]:
    """Seconds and processor seconds that each photograph adds to a page."""
    with_all, with_none = (page_seconds(folder, model, shown, package) for shown in (n, 0))
    return {name: (with_all[name] - with_none[name]) / n for name in ("seconds", "cpu_s")}


def page_seconds(folder: str, model: str, shown: int, package: str) -> dict[str, float]:
    """Seconds of one page that shows so many photographs, in a process of its own."""
    command = [sys.executable, "-c", MEASURE, "--scores", f"{folder}/scores", "--out", f"{folder}/page.html"]
    command += ["--model", model, "--worst", str(shown), "--passed", "0", "--photographs", str(shown)]
    environment = os.environ | {"PYTHONPATH": package}
    done = subprocess.run(command, cwd=package, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert figures["exit_code"] == 0, done.stdout
    return figures


def commit_of(package: str) -> str:
    """The short name of the commit in a checkout."""
    done = subprocess.run(["git", "-C", package, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or package


if __name__ == "__main__":
    main()
