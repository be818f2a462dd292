"""What eight-bit and half-precision runtimes of the built-in model cost and err: the reason for, or against, a cascade.

    python benchmarks/int8.py --images FOLDER [--each 130] [--rounds 5]

FOLDER holds the labelled images, sdnet/{crack,sound} and metu/{crack,sound}. The first ones of each calibrate the
quantisers (sound tiles, half of them again with drawn cracks), `--each` others are measured. Times are of the
processor, one thread, the least of the rounds, which are interleaved. Needs `pip install openvino`, which
crackvae does not depend on.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OPENVINO_TELEMETRY_OPT_OUT"] = "1"

import numpy as np
import pyarrow as pa
import torch
from record import write_result

from crackvae.images.decoded import decode_images
from crackvae.model import builtin
from crackvae.model.inference import load_scorer, one_thread, score_tiles
from crackvae.model.network import Output, to_input
from crackvae.model.runtime import Runtime, runtime_of
from crackvae.model.runtime.graph_cache import graph_of
from crackvae.model.runtime.onnx import NETWORK_OUTPUTS
from crackvae.model.runtime.ort import onnxruntime
from crackvae.storage.listing import list_images
from crackvae.training.synthetic_cracks import add_cracks_only
from crackvae.training.synthetic_cracks.drawings import draw

SETS = ("sdnet/crack", "sdnet/sound", "metu/crack", "metu/sound")
BATCH = 8
# Sound tiles of each of the two sets that calibrate a quantiser.
CALIBRATE = 48
# Scores are near the threshold between these multiples of it.
NEAR = (0.5, 2.0)
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--each", type=int, default=130)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    scorer = load_scorer(builtin.FOLDER)
    model, threshold = scorer.model, scorer.calibration.threshold
    tiles = {name: tiles_of(flags.images / name, CALIBRATE + flags.each, model.spec) for name in SETS}
    measured_TPP = np.concatenate([of[CALIBRATE:] for of in tiles.values()])
    sound_TPP = np.concatenate([tiles["sdnet/sound"][:CALIBRATE], tiles["metu/sound"][:CALIBRATE]])
    runtimes = all_runtimes(model, quantiser_tiles(sound_TPP))
    scores, seconds = {}, {name: [] for name in runtimes}
    with one_thread():
        for round_ in range(flags.rounds):
            for name, runtime in runtimes.items():
                part_TPP = measured_TPP if not round_ else measured_TPP[:: flags.rounds]
                started = time.process_time()
                found_T = score_tiles(model, part_TPP, BATCH, runtime=runtime)[:, 0]
                seconds[name].append((time.process_time() - started) / len(part_TPP))
                scores.setdefault(name, found_T)
    rows = {name: row_of(scores["float32"], scores[name], threshold, seconds[name]) for name in runtimes}
    for name, row in rows.items():
        print(f"{name:24}", row)
    figures = {"tiles": len(measured_TPP), "model": model.digest, "batch": BATCH, "threshold": float(threshold)}
    print(write_result("int8", figures | {"near": NEAR, "runtimes": rows}))


def tiles_of(folder: Path, n: int, spec: Any) -> np.ndarray:
    """uint8 (n, P, P): the first tile of each image."""
    images = list_images(str(folder)).images.slice(0, n)
    images = images.append_column("group", pa.array([""] * images.num_rows))
    side, rows = spec.input_px, [row for table in decode_images(images, spec) for row in table.to_pylist()]
    return np.stack([np.frombuffer(row["tiles"], np.uint8).reshape(-1, side, side)[0] for row in rows])


def quantiser_tiles(sound_TPP: np.ndarray) -> np.ndarray:
    """Sound tiles, and half of them again with drawn cracks: without these, cracks would be clipped."""
    sound = torch.from_numpy(sound_TPP)
    cracked = add_cracks_only(sound[::2], draw(1, sound.shape[1], len(sound) // 2), torch.Generator().manual_seed(1))
    cracked_TPP = (cracked.input_B1PP[:, 0] * 255).round().to(torch.uint8).numpy()
    return np.concatenate([sound_TPP, cracked_TPP])


def all_runtimes(model: Any, tiles_TPP: np.ndarray) -> dict[str, Runtime]:
    """Every candidate; OpenVINO reads the graph that ONNX Runtime has quantised."""
    graph = graph_of(model, BATCH)
    quantised = quantised_graph(graph, tiles_TPP)
    by_torch = {"torch float32": "fp32", "float32": "onnx", "torch bf16": "bf16"}
    runtimes = {name: runtime_of(model, precision, BATCH) for name, precision in by_torch.items()}
    runtimes["ONNX Runtime int8"] = Runtime("int8", "cpu", forward_of(by_onnxruntime(quantised)))
    for name, content, precision in (("f32", graph, "f32"), ("bf16", graph, "bf16"), ("int8", quantised, "f32")):
        runtimes[f"OpenVINO {name}"] = Runtime(name, "cpu", forward_of(by_openvino(content, precision)))
    return runtimes


def quantised_graph(graph: bytes, tiles_TPP: np.ndarray) -> bytes:
    """The graph with eight-bit weights, per channel, and activations calibrated on tiles."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Tiles(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.split(tiles_TPP, len(tiles_TPP) // BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"tiles": to_input(torch.from_numpy(batch)).numpy()}

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(graph)
        quantize_static(
            before,
            after,
            Tiles(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Add", "Concat", "MaxPool", "AveragePool", "Gemm", "MatMul"],
        )
        return after.read_bytes()


def by_onnxruntime(graph: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda tiles: dict(zip(names, session.run(names, {"tiles": tiles}), strict=True))


def by_openvino(graph: bytes, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    # The outputs keep their order; a tensor may have further names.
    return lambda tiles: dict(zip(NETWORK_OUTPUTS, map(np.array, compiled([tiles]).values()), strict=True))


def forward_of(run: Run) -> Callable[[torch.Tensor], Output]:
    def forward(input_B1PP: torch.Tensor) -> Output:
        parts = {name: torch.from_numpy(part) for name, part in run(input_B1PP.contiguous().numpy()).items()}
        return Output(parts["reconstruction_B1QQ"], parts["mu_BZ"], torch.empty(0), parts.get("crack_B1PP"))

    return forward


def row_of(wanted_T: np.ndarray, found_T: np.ndarray, threshold: float, seconds: list[float]) -> dict[str, float]:
    """Milliseconds a tile, and errors as shares of the threshold."""
    error_T = np.abs(found_T - wanted_T) / threshold
    near_T = (wanted_T > NEAR[0] * threshold) & (wanted_T < NEAR[1] * threshold)
    sound_T = wanted_T <= threshold
    missed_T = ~sound_T & (found_T <= threshold)
    return {
        "ms_a_tile": round(1e3 * min(seconds), 2),
        "tiles_near": int(near_T.sum()),
        "largest_error_near": round(float(error_T[near_T].max()), 4),
        "p99_error_near": round(float(np.quantile(error_T[near_T], 0.99)), 4),
        "median_error_near": round(float(np.median(error_T[near_T])), 4),
        "largest_error": round(float(error_T.max()), 4),
        "flags_lost": int(missed_T.sum()),
        "flags_gained": int((sound_T & (found_T > threshold)).sum()),
        # the highest bound, as a share of the threshold, at which a screen loses no flag
        "safe_bound": round(float((found_T[~sound_T] / threshold).min()), 4),
    }


if __name__ == "__main__":
    main()
