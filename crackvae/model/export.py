"""A model as one ONNX file that needs none of this code, and the check that it gives the same scores.

Shape letters: B tiles of one pass, P side of a tile at the input [px].
"""

import copy
from dataclasses import asdict

import numpy as np
import onnxruntime
import pandas as pd
import torch
from onnx import TensorProto

from crackvae.config import ExportConfig, Outcome
from crackvae.images.synthetic import draw_image
from crackvae.images.tiles import resized
from crackvae.model.heads import HEADS, scores_of
from crackvae.model.inference import Scorer, load_scorer, score_tiles
from crackvae.model.network import BLACK, ModelSpec
from crackvae.model.onnx import OPSET, Graph
from crackvae.storage import fileio, uris

# Tiles that the file is held against the model on, half of them cracked; drawn, so nothing has to be given.
PARITY_TILES = 48


# Largest difference between the file's scores and the model's, as a share of the threshold: float32 is 1e-6 off.
BOUND = 1e-3


# A name for "any number" in the shapes of the file.
ANY = "tiles"


@uris.with_s3_endpoint
def export(config: ExportConfig) -> Outcome:
    """Write a model as an ONNX file: uint8 tiles in; score, anomaly map and reconstruction out.

    The file's metadata hold what its user needs beside it: size and distance of tiles in an image, the score head, the
    threshold and its level, and the model's digest.

    Returns:
        Outcome with the table `parity`: the file, run by ONNX Runtime, and the model, each against float64.

    Raises:
        ModelError, StorageError: with the mend.
    """
    scorer = load_scorer(config.model)
    out = uris.absolute(config.out)
    data = onnx_file(scorer)
    parity = _parity(scorer, data)
    worst = parity["ONNX file"]["largest difference"]
    assert worst <= BOUND * max(scorer.calibration.threshold, 1e-9), f"the file is {worst:g} off: {parity}"
    fileio.write_bytes(out, data)
    summary = {
        "verb": "export",
        "out": out,
        "bytes": len(data),
        "opset": OPSET,
        "model": scorer.model.digest,
        "leaky": scorer.model.spec.leaky,
        "threshold": scorer.calibration.threshold,
        "parity_tiles": PARITY_TILES,
        "largest_difference": worst,
        "flags_that_differ": int(parity["ONNX file"]["flags that differ"]),
    }
    return Outcome(summary, {"parity": pd.DataFrame.from_dict(parity, orient="index")})


def onnx_file(scorer: Scorer) -> bytes:
    """The content of the ONNX file of a model.

    Input `tiles` uint8 (B, P, P); outputs `score` (B,), `anomaly_map` and `reconstruction` (B, 1, P, P), float32.
    """
    spec = scorer.model.spec
    side = spec.input_px
    graph = Graph()
    greys = graph.add("Unsqueeze", graph.add("Cast", "tiles", to=TensorProto.FLOAT), graph.constant([1], np.int64))
    white = graph.constant(255.0)
    tiles = graph.add("Div", greys, white)
    median = graph.add("Div", _median(graph, greys, side**2), white)
    outputs = graph.network(scorer.model.network, tiles, _darker_than(graph, median, tiles))
    # Names of its own for what leaves the graph.
    graph.add("Identity", outputs["reconstruction_B1PP"], name="reconstruction")
    _head(graph, spec, tiles, median, outputs)
    maps = (ANY, 1, side, side)
    properties = {name: str(value) for name, value in asdict(spec).items()} | {
        "digest": scorer.model.digest,
        "threshold": repr(scorer.calibration.threshold),
        "level": scorer.calibration.level,
    }
    return graph.file(
        {"tiles": (TensorProto.UINT8, (ANY, side, side))},
        {"score": (ANY,), "anomaly_map": maps, "reconstruction": maps},
        properties,
    )


def _median(graph: Graph, greys_B1PP: str, n: int) -> str:
    """Grey level of the lower median of each tile, by bisection; ONNX has no operator for it but sorting."""
    rank, axes = graph.constant(float((n - 1) // 2)), graph.constant([1, 2, 3], np.int64)
    level = graph.constant(np.zeros((1, 1, 1, 1)))
    for bit in (128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0):
        higher = graph.add("Add", level, graph.constant(bit))
        is_below = graph.add("Cast", graph.add("Less", greys_B1PP, higher), to=TensorProto.FLOAT)
        is_reached = graph.add("LessOrEqual", graph.add("ReduceSum", is_below, axes, keepdims=1), rank)
        level = graph.add("Where", is_reached, higher, level)
    return level


def _darker_than(graph: Graph, reference: str, tiles: str) -> str:
    """As model.darker_than()."""
    return graph.add("Div", graph.add("Sub", reference, tiles), graph.add("Add", reference, graph.constant(BLACK)))


def _head(graph: Graph, spec: ModelSpec, tiles: str, median: str, outputs: dict[str, str]) -> None:
    """Anomaly map and score of the model's head, as scoring.scores_of()."""
    head = HEADS[spec.head]
    if spec.head in ("mse", "top"):
        anomaly = graph.add("Abs", graph.add("Sub", tiles, outputs["reconstruction_B1PP"]), name="anomaly_map")
    elif spec.head == "dark":
        anomaly = graph.add("Relu", _darker_than(graph, median, tiles), name="anomaly_map")
    elif spec.head == "evidence":
        anomaly = graph.add("Softplus", outputs["crack_B1PP"], name="anomaly_map")
    else:
        reference = graph.add("Max", outputs["reconstruction_B1PP"], median)
        darkness = graph.add("Relu", _darker_than(graph, reference, tiles))
        anomaly = graph.add("Mul", darkness, graph.add("Sigmoid", outputs["crack_B1PP"]), name="anomaly_map")
    values = graph.add("Flatten", graph.add("Mul", anomaly, anomaly) if head.power == 2 else anomaly, axis=1)
    largest = max(1, round(head.share * spec.input_px**2))
    if largest < spec.input_px**2:
        values = graph.add("TopK", values, graph.constant([largest], np.int64), outputs=2, axis=1, sorted=0)
    graph.add("ReduceMean", values, name="score", axes=[1], keepdims=0)


def _parity(scorer: Scorer, data: bytes) -> dict[str, dict[str, float]]:
    """Largest difference from float64, and flags that differ, of the file and of the model itself."""
    spec, threshold = scorer.model.spec, scorer.calibration.threshold
    drawn = [draw_image(0, n, n % 2 == 0, spec.tile_px)[0][:, :, 0] for n in range(PARITY_TILES)]
    tiles_BPP = resized(drawn, spec.input_px)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = {
        "ONNX file": session.run(["score"], {"tiles": tiles_BPP})[0],
        "model": score_tiles(scorer.model, tiles_BPP, PARITY_TILES)[:, 0],
    }
    input_B1PP = torch.from_numpy(tiles_BPP).unsqueeze(1).double() / 255
    with torch.inference_mode():
        exact_B = scores_of(spec.head, input_B1PP, copy.deepcopy(scorer.model.network).double()(input_B1PP)).numpy()
    rows: dict[str, dict[str, float]] = {}
    for name, scores_B in found.items():
        largest = float(np.abs(scores_B - exact_B).max())
        rows[name] = {
            "largest difference": largest,
            "share of the threshold": largest / threshold if threshold else float("nan"),
            "flags that differ": int(((scores_B > threshold) != (exact_B > threshold)).sum()),
        }
    return rows
