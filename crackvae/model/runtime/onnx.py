"""A network as an ONNX graph, by torch's own exporter: there is one definition of the forward pass.

The TorchScript exporter (`dynamo=False`) is used because it takes 0.3 s of processor time a model; the newer one took
15 s and needs a further package (torch 2.13; docs/log.md). graph_cache keeps what network_graph() has exported.

Shape letters: B tiles of one pass, P side of a tile at the input [px], Q side of the
ConvVAE's input [px], Z latent dimensions.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crackvae.model.heads import HEADS, model_scores
from crackvae.model.network import Network, enlarged
from crackvae.model.spec import ModelSpec

# Supported by every ONNX runtime since 2023.
OPSET = 17

# Names of the outputs of network_graph(), less `crack_B1PP` for a model without a segmenter.
NETWORK_OUTPUTS = ("reconstruction_B1QQ", "mu_BZ", "crack_B1PP")


class _Forward(nn.Module):
    """The network as scoring runs it, without sampling."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, tiles_B1PP: Tensor) -> tuple[Tensor, ...]:
        output = self.network(tiles_B1PP)
        parts = (output.reconstruction_B1QQ, output.mu_BZ, output.crack_B1PP)
        return tuple(part for part in parts if part is not None)


class _Scoring(nn.Module):
    """From uint8 tiles to score, anomaly map and reconstruction: all that a program without crackvae needs."""

    def __init__(self, spec: ModelSpec, network: Network) -> None:
        super().__init__()
        self.spec, self.network = spec, network

    def forward(self, tiles_BPP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        input_B1PP = tiles_BPP.unsqueeze(1).float() / 255
        output = self.network(input_B1PP)
        anomaly_B1PP = HEADS[self.spec.head].anomaly_map(self.spec, input_B1PP, output)
        reconstruction_B1PP = enlarged(output.reconstruction_B1QQ, input_B1PP)
        return model_scores(self.spec, input_B1PP, output), anomaly_B1PP, reconstruction_B1PP


def network_graph(network: Network, batch: int, side: int) -> bytes:
    """ONNX file of a pass of exactly `batch` tiles.

    Input `tiles` float (B, 1, P, P); outputs NETWORK_OUTPUTS.
    """
    outputs = NETWORK_OUTPUTS if network.segmenter else NETWORK_OUTPUTS[:-1]
    return _exported(_Forward(network), (torch.zeros(batch, 1, side, side),), ["tiles"], outputs)


def scoring_graph(spec: ModelSpec, network: Network) -> bytes:
    """ONNX file from tiles to scores.

    Input `tiles` uint8 (tiles, P, P) of any number; outputs `score` (tiles,), `anomaly_map` and `reconstruction`
    (tiles, 1, P, P), all float32.
    """
    outputs = ("score", "anomaly_map", "reconstruction")
    examples = (torch.zeros(2, spec.input_px, spec.input_px, dtype=torch.uint8),)
    any_number = {name: {0: "tiles"} for name in ("tiles", *outputs)}
    return _exported(_Scoring(spec, network), examples, ["tiles"], outputs, dynamic_axes=any_number)


def _exported(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, dict[int, str]] | None = None,
) -> bytes:
    torch.onnx.register_custom_op_symbolic("aten::special_ndtr", _normal_cdf, OPSET)  # type: ignore[attr-defined]
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that this exporter is the older one, and that sizes become constants
        torch.onnx.export(
            module.eval(),
            examples,
            file,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_axes=dynamic_axes,
            dynamo=False,
        )
    return file.getvalue()


def _normal_cdf(graph: Any, values: Any) -> Any:
    """Normal distribution function as ONNX operators; the exporter knows none."""

    def constant(value: float) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value))

    erf = graph.op("Erf", graph.op("Mul", values, constant(math.sqrt(0.5))))
    return graph.op("Mul", graph.op("Add", erf, constant(1.0)), constant(0.5))
