"""Export a model as one ONNX file that needs no crackvae, and check that its scores are the same.

Shape letters: B tiles of one forward pass, P side of a tile at the input [px].
"""

import copy
from dataclasses import asdict

import numpy as np
import onnx
import pandas as pd
import torch

from crackvae.config import ExportConfig
from crackvae.images.synthetic import draw_image
from crackvae.images.tiles import resized
from crackvae.model.export.edge import edge_files
from crackvae.model.heads import model_scores
from crackvae.model.inference import Scorer, load_scorer, score_tiles
from crackvae.model.runtime.onnx import OPSET, scoring_graph
from crackvae.model.runtime.ort import onnxruntime
from crackvae.results import Result
from crackvae.storage import fileio, filesystems, uris

# Synthetic tiles on which file and model are compared, half of them cracked.
PARITY_TILES = 48

# Largest difference allowed between the scores of the file and of the model, relative to the threshold. Float32
# rounding accounts for about 1e-6.
BOUND = 1e-3


@filesystems.with_s3_endpoint
def export(config: ExportConfig) -> Result:
    """Write a model as an ONNX file: uint8 tiles in; score, anomaly map and reconstruction out.

    The file's metadata hold everything else that its user needs: tile size and stride, the score head, the threshold
    and its level, and the model's digest.

    Returns:
        Result with the table `parity`: the file, run by ONNX Runtime, and the model, each compared with float64.

    Raises:
        ModelError, StorageError: the message says how to fix it.
    """
    scorer = load_scorer(config.model)
    out = uris.absolute(config.out)
    if config.kind == "edge":
        fileio.require_new(out, "--out")
    fileio.require_outside_table(out, "--out")
    data = onnx_file(scorer)
    parity = _parity(scorer, data)
    worst = parity["ONNX file"]["largest difference"]
    assert worst <= BOUND * max(scorer.calibration.threshold, 1e-9), f"scores of the file differ by {worst:g}: {parity}"
    if config.kind == "edge":
        fileio.write_folder(out, edge_files(scorer, data))
    else:
        fileio.write_bytes(out, data)
    summary = {
        "verb": "export",
        "out": out,
        "bytes": len(data),
        "opset": OPSET,
        "model": scorer.model.digest,
        "leaky": scorer.leaky,
        "threshold": scorer.calibration.threshold,
        "parity_tiles": PARITY_TILES,
        "largest_difference": worst,
        "flags_that_differ": int(parity["ONNX file"]["flags that differ"]),
    }
    return Result(summary, {"parity": pd.DataFrame.from_dict(parity, orient="index")})


def onnx_file(scorer: Scorer) -> bytes:
    """scoring_graph() of a model, with its settings and calibration as metadata."""
    spec = scorer.model.spec
    model = onnx.load_from_string(scoring_graph(spec, scorer.model.network))
    properties = {name: str(value) for name, value in asdict(spec).items()} | {
        "digest": scorer.model.digest,
        "leaky": str(scorer.leaky),
        "threshold": repr(scorer.calibration.threshold),
        "level": scorer.calibration.level,
    }
    onnx.helper.set_model_props(model, properties)
    return bytes(model.SerializeToString())


def _parity(scorer: Scorer, data: bytes) -> dict[str, dict[str, float]]:
    """Largest difference from float64 and number of flags that differ, for the file and for the model itself."""
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
        exact_B = model_scores(spec, input_B1PP, copy.deepcopy(scorer.model.network).double()(input_B1PP)).numpy()
    rows: dict[str, dict[str, float]] = {}
    for name, scores_B in found.items():
        largest = float(np.abs(scores_B - exact_B).max())
        rows[name] = {
            "largest difference": largest,
            "share of the threshold": largest / threshold if threshold else float("nan"),
            "flags that differ": int(((scores_B > threshold) != (exact_B > threshold)).sum()),
        }
    return rows
