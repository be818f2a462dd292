"""Images a second of `score`, of its steps on one core, and of three peers with the same network and score head.

python benchmarks/throughput.py --images METU --model MODEL [--count 20000]

Each figure comes from a process of its own, the processes take turns, and the median of the rounds counts:

- limit: decoding (read, decode, resize, measure) and the network with its head, in the precisions that `score` uses for
  these images, each on one pinned core; all cores together can do no more than n / (decoding + network);
- pipeline: `crackvae score --findings off`, from listing to the written table: no peer traces cracks, and a quarter to
  half of METU is cracked;
- DataLoader: a loop over torch's DataLoader with Pillow, one worker process a core, float32 in eager mode;
- Ray Data: `read_images`, then `map_batches` with a pool of one actor, which leaves a CPU to reading;
- Daft: `download`, `decode_image`, `resize` and a class UDF, in the environment of --daft-python, because Daft wants an
  older pyarrow than constraints.txt has: install `.[bench]` there without it.

Rates of pipeline and peers are steady ones, without the start; `seconds` is all of the process. `hundred` is `score` of
100 images as a user waits for it, with its page: in the process itself, and on a Ray of its own.

With --fidelity, instead of all this, every precision is held against float64 on that many of the images; bf16 by its
rounding alone where the hardware lacks it.
"""

import argparse
import copy
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import write_result
from samples import every_nth

from crackvae.cores import usable_cores
from crackvae.images import decoding, surface
from crackvae.images.decoded import decode_images
from crackvae.images.tiles import resized
from crackvae.model.heads import LATENT_NORM, model_scores, scores_of
from crackvae.model.inference import load_scorer, score_tiles
from crackvae.model.screen import FLOAT32

BATCH = 32
MAX_PX = 10_000_000
CPUS = usable_cores()
PEERS = ("DataLoader", "Ray Data", "Daft")


def main() -> None:
    """Take the rounds and write the result; with --part, take one figure and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of JPEGs")
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--count", type=int, default=20_000, help="images of the first round of the pipeline")
    parser.add_argument("--again", type=int, default=4_000, help="and of its other rounds")
    parser.add_argument("--peer-count", type=int, default=1_500, help="images of a peer and of the limit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fidelity", type=int, default=0, help="images to hold against float64, instead of all else")
    parser.add_argument("--daft-python", default=sys.executable)
    parser.add_argument("--precision", default="auto", help="of the pipeline and its limit (default: %(default)s)")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        paths = every_nth(Path(arguments.images), arguments.count)
        print(json.dumps(PARTS[arguments.part](paths, arguments.model, arguments.precision)))
        return
    digest = load_scorer(arguments.model).model.digest
    if arguments.fidelity:
        print(write_result("fidelity", {"model_digest": digest, **taken("fidelity", arguments, 0)}))
        return
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        rounds.append({part: taken(part, arguments, number) for part in ("limit", "pipeline", *PEERS, "hundred")})
    figures = {"what": __doc__, "model_digest": digest, "precision": arguments.precision, **summed_up(rounds)}
    print(json.dumps({name: value for name, value in figures.items() if name not in ("what", "rounds")}, indent=1))
    print(write_result("throughput", figures))


def taken(part: str, arguments: argparse.Namespace, number: int) -> dict[str, float]:
    """One figure, from a process of its own."""
    counts = {"pipeline": arguments.count if number == 0 else arguments.again, "hundred": 100}
    counts["fidelity"] = arguments.fidelity
    python = arguments.daft_python if part == "Daft" else sys.executable
    command = [python, __file__, "--images", arguments.images, "--model", arguments.model, "--part", part]
    command += ["--count", str(counts.get(part, arguments.peer_count)), "--precision", arguments.precision]
    started = time.perf_counter()
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(number, part, found, flush=True)
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def summed_up(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and what is asked of them."""
    cost = {
        step: statistics.median(one["limit"][f"{step}_us"] for one in rounds)
        for step in ("decode", "measure", "network")
    }
    limit = statistics.median(CPUS * 1e6 / (one["limit"]["decode_us"] + one["limit"]["network_us"]) for one in rounds)
    rate = {part: statistics.median(one[part]["images_per_s"] for one in rounds) for part in ("pipeline", *PEERS)}
    return {
        "us_an_image_on_one_core": cost,
        "limit_images_per_s": round(limit, 1),
        "images_per_s": rate,
        "share_of_the_limit": round(rate["pipeline"] / limit, 3),
        "times_as_fast_as": {peer: round(rate["pipeline"] / rate[peer], 2) for peer in PEERS},
        "seconds_for_100_images": {
            how: statistics.median(one["hundred"][how] for one in rounds) for how in ("in_process_s", "on_ray_s")
        },
        "rounds": rounds,
    }


def steady(results: Iterable[int]) -> dict[str, float]:
    """Rate from the first result to the last, given the images of each."""
    n, first = 0, 0.0
    for number, images in enumerate(results):
        if number == 0:
            first = time.perf_counter()
        else:
            n += images
    return {"images_per_s": round(n / (time.perf_counter() - first), 1), "images": n}


# ------------------------------------------------------------------------------------------------------ parts


def limit(paths: list[str], model_dir: str, precision: str) -> dict[str, float]:
    """Microseconds an image of decoding and of the network, on one pinned core."""
    import pyarrow as pa

    from crackvae.images.groups import with_groups
    from crackvae.scoring.actors import CPU_BATCH, ScoringSettings
    from crackvae.storage.listing import list_images

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    scorer = load_scorer(model_dir)
    model = scorer.model
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as list_file:
        list_file.write("\n".join(paths))
        list_file.flush()
        listed = with_groups(list_images(f"@{list_file.name}"), "none")
    rows_of, _ = ScoringSettings("run", CPU_BATCH, precision, (LATENT_NORM,), MAX_PX).stages(scorer)
    rows_of(pa.concat_tables(decode_images(listed.slice(0, BATCH), model.spec)))
    blocks, started = [], time.perf_counter()
    for start in range(0, listed.num_rows, 128):
        blocks += decode_images(listed.slice(start, 128), model.spec)
    decoded_s = time.perf_counter() - started
    pixels = [decoding.decode(Path(path).read_bytes()) for path in paths[:200]]
    started = time.perf_counter()
    for pixels_HW in pixels:
        surface.measures(pixels_HW)
    measured_s = time.perf_counter() - started
    started = time.perf_counter()
    precisions = [one for decoded in blocks for one in rows_of(decoded)["precision"].to_pylist()]
    scored_s = time.perf_counter() - started
    n = len(paths)
    return {
        "decode_us": 1e6 * decoded_s / n,
        "measure_us": 1e6 * measured_s / len(pixels),
        "network_us": 1e6 * scored_s / n,
        "in_float32": precisions.count(FLOAT32) / n,
        "images": n,
    }


def pipeline(paths: list[str], model_dir: str, precision: str) -> dict[str, float]:
    """`score` as a user calls it; the steady rate is taken from the rows as they reach the driver."""
    from crackvae.config import ScoreConfig
    from crackvae.scoring import verb

    rates: list[dict[str, float]] = []
    score_rows = verb.score_rows

    @functools.wraps(score_rows)
    def timed(*arguments: Any, **named: Any) -> Any:
        seen: list[tuple[float, int]] = []
        for rows in score_rows(*arguments, **named):
            seen.append((time.perf_counter(), rows.num_rows))
            yield rows
        after_first = sum(n for _, n in seen[CPUS:])  # the first block of each actor comes with its start
        rates.append({"images_per_s": round(after_first / (seen[-1][0] - seen[CPUS - 1][0]), 1), "images": after_first})

    verb.score_rows = timed
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images.txt").write_text("\n".join(paths))
        outcome = verb.score(
            ScoreConfig(
                images=f"@{folder}/images.txt",
                model=model_dir,
                out=f"{folder}/scores",
                precision=precision,
                quiet=True,
                no_report=True,
                findings="off",
            )
        )
    return rates[0] | {"whole_run_s": outcome.summary["seconds"]}


def hundred(paths: list[str], model_dir: str, precision: str) -> dict[str, float]:
    """Seconds of the command on these images, from its start to its end."""
    found = {}
    for how, flags in (("in_process_s", []), ("on_ray_s", ["--workers", str(CPUS)])):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "images.txt").write_text("\n".join(paths))
            command = [sys.executable, "-m", "crackvae", "score", "--images", f"@{folder}/images.txt"]
            command += ["--precision", precision, "--quiet"]
            started = time.perf_counter()
            subprocess.run(
                [*command, "--model", model_dir, "--out", f"{folder}/scores", *flags],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            found[how] = round(time.perf_counter() - started, 1)
    return found


def data_loader(paths: list[str], model_dir: str, _: str) -> dict[str, float]:
    """What a practitioner writes: a Dataset with Pillow, a DataLoader, a loop."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    model = load_scorer(model_dir).model
    side = model.spec.input_px

    class Images(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> torch.Tensor:
            image = Image.open(paths[number]).convert("L").resize((side, side), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.asarray(image, np.float32) / 255).unsqueeze(0)

    def results() -> Iterable[int]:
        for input_B1PP in DataLoader(Images(), batch_size=BATCH, num_workers=CPUS):
            with torch.inference_mode():
                yield len(scores_of(model.spec, model.spec.head, input_B1PP, model.network(input_B1PP)).tolist())

    return steady(results())


class EagerScorer:
    """The class that a user of Ray Data or Daft writes around a network."""

    def __init__(self, model_dir: str) -> None:
        self.model = load_scorer(model_dir).model

    def scores(self, images_BPP: np.ndarray) -> np.ndarray:
        """Score of each uint8 image."""
        with torch.inference_mode():
            input_B1PP = torch.from_numpy(images_BPP.astype(np.float32) / 255).unsqueeze(1)
            return scores_of(self.model.spec, self.model.spec.head, input_B1PP, self.model.network(input_B1PP)).numpy()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images_BPP = batch["image"].reshape(batch["image"].shape[:3])  # with a last axis of one channel, or without
        return {"score": self.scores(images_BPP)}


def ray_data(paths: list[str], model_dir: str, _: str) -> dict[str, float]:
    """The example of Ray Data's documentation for batch inference on images."""
    import ray

    ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    side = load_scorer(model_dir).model.spec.input_px
    scored = ray.data.read_images(paths, size=(side, side), mode="L").map_batches(
        EagerScorer,
        fn_constructor_args=(model_dir,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=max(1, CPUS - 1)),
        num_cpus=1,
    )
    rate = steady(len(batch["score"]) for batch in scored.iter_batches(batch_size=None))
    ray.shutdown()
    return rate


def daft_frame(paths: list[str], model_dir: str, _: str) -> dict[str, float]:
    """A Daft data frame with its own download, decoding and resize."""
    import daft
    from daft import DataType, col

    side = load_scorer(model_dir).model.spec.input_px

    @daft.cls
    class Score:
        def __init__(self) -> None:
            self.scorer = EagerScorer(model_dir)

        @daft.method.batch(return_dtype=DataType.float32(), batch_size=BATCH)
        def scores(self, images: Any) -> Any:
            return self.scorer.scores(np.stack([np.asarray(image).squeeze() for image in images.to_pylist()]))

    def seconds(some: list[str]) -> float:
        frame = daft.from_pydict({"path": some})
        frame = frame.with_column("image", col("path").download().decode_image(mode="L").resize(side, side))
        started = time.perf_counter()
        assert frame.select(Score().scores(col("image"))).collect().count_rows() == len(some)
        return time.perf_counter() - started

    # Its results all come at the end; what it takes to start is what a first, small frame takes.
    few = paths[:BATCH]
    start_s = seconds(few)
    return {"images_per_s": round((len(paths) - len(few)) / (seconds(paths) - start_s), 1), "images": len(paths)}


def fidelity(paths: list[str], model_dir: str, _: str) -> dict[str, Any]:
    """|score - float64 score| as a share of the threshold, and flags that differ."""
    from dataclasses import replace

    from crackvae.model.runtime import has_fast_bf16, runtime_of

    scorer = load_scorer(model_dir)
    threshold, spec = scorer.calibration.threshold, scorer.model.spec
    tiles_TPP = resized([decoding.decode(Path(path).read_bytes()) for path in paths], spec.input_px)
    network = copy.deepcopy(scorer.model.network).double()
    with torch.inference_mode():
        parts = np.array_split(tiles_TPP, -(-len(paths) // 16))
        inputs = [torch.from_numpy(some).unsqueeze(1).double() / 255 for some in parts]
        exact_T = np.concatenate([model_scores(spec, one, network(one)).numpy() for one in inputs])
    found: dict[str, Any] = {"images": len(paths)}
    for precision in ("fp32", "onnx", "bf16"):
        model = replace(scorer.model, network=copy.deepcopy(scorer.model.network))
        runtime = runtime_of(model, precision, BATCH) if precision != "bf16" or has_fast_bf16("cpu") else None
        name = precision if runtime else "bf16, its rounding alone"
        if runtime is None:
            round_to_bf16(model.network)
        scores_T = score_tiles(model, tiles_TPP, BATCH, runtime=runtime)[:, 0]
        found[name] = {
            "largest_error_of_threshold": float(np.abs(scores_T - exact_T).max() / threshold),
            "flags_that_differ": int(((scores_T > threshold) != (exact_T > threshold)).sum()),
        }
    return found


def round_to_bf16(network: torch.nn.Module) -> None:
    """What autocast makes of a network, but for speed: bfloat16 into and out of every layer, float32 sums within."""

    def rounded(values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16().float()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            module.weight.data, module.bias.data = rounded(module.weight.data), rounded(module.bias.data)
            module.register_forward_pre_hook(lambda _, inputs: tuple(map(rounded, inputs)))
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, output: rounded(output))


PARTS = {
    "limit": limit,
    "pipeline": pipeline,
    "hundred": hundred,
    "DataLoader": data_loader,
    "Ray Data": ray_data,
    "Daft": daft_frame,
    "fidelity": fidelity,
}

if __name__ == "__main__":
    main()
