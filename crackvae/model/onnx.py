"""The network as an ONNX graph, built from its layers: in milliseconds, where torch's own exporter takes ten seconds.

Shape letters: B tiles of one pass, P side of a tile at the input [px], Z latent dimensions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import nn

from crackvae.model.network import BLACK, FOLD, ConvVAE, Network, Segmenter

# Of 2023, read by every runtime of today; all operators used here are older.
OPSET, IR_VERSION = 17, 9


# Sizes of a tensor; a name or None where any size will do.
Shape = Sequence[int | str | None]


class Graph:
    """An ONNX graph under construction: each method adds nodes and gives the name of what they compute.

    It grows in the message that becomes the file, because putting one together at the end would copy the weights twice.
    """

    def __init__(self) -> None:
        opset = [helper.make_opsetid("", OPSET)]
        empty = helper.make_graph([], "crackvae", [], [])
        self._model = helper.make_model(empty, opset_imports=opset, ir_version=IR_VERSION, producer_name="crackvae")
        self._graph = self._model.graph

    def add(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        """A node of one operator, whose first output may be given a name; further outputs are left unused."""
        names = [name or f"{operator.lower()}_{len(self._graph.node)}"]
        names += [f"{names[0]}_{number}" for number in range(1, outputs)]
        self._graph.node.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0]

    def constant(self, values: torch.Tensor | np.ndarray | Sequence[float] | float, dtype: Any = np.float32) -> str:
        """Numbers that are part of the file."""
        array = np.ascontiguousarray(values.detach().numpy() if isinstance(values, torch.Tensor) else values, dtype)
        name = f"constant_{len(self._graph.initializer)}"
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._graph.initializer.add(name=name, dims=np.shape(values), data_type=kind, raw_data=array.tobytes())
        return name

    def layers(self, module: nn.Module, values: str, name: str = "") -> str:
        """A torch layer, or several in a row."""
        if isinstance(module, nn.Sequential):
            for layer in module:
                values = self.layers(layer, values)
            return values
        if isinstance(module, nn.Linear):
            weights = [self.constant(module.weight), self.constant(module.bias)]
            return self.add("Gemm", values, *weights, name=name, transB=1)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None and not isinstance(module.padding, str), "as model.py builds them"
            weights = [self.constant(module.weight), self.constant(module.bias)]
            operator = "Conv" if isinstance(module, nn.Conv2d) else "ConvTranspose"
            sizes: dict[str, Any] = {
                "kernel_shape": module.kernel_size,
                "strides": module.stride,
                "pads": module.padding * 2,
            }
            return self.add(operator, values, *weights, name=name, **sizes)
        assert isinstance(module, nn.ReLU | nn.Sigmoid), f"no layer of model.py: {module}"
        return self.add("Relu" if isinstance(module, nn.ReLU) else "Sigmoid", values, name=name)

    def network(self, network: Network, tiles_B1PP: str, contrast_B1PP: str) -> dict[str, str]:
        """The network's pass: names of reconstruction_B1PP, mu_BZ and, where there is a segmenter, crack_B1PP."""
        vae = network.vae
        features = self.add("Flatten", self.layers(vae.encoder, tiles_B1PP), axis=1)
        mu = self.layers(vae.mu, features, name="mu")
        shape = self.constant([-1, vae.expand.out_features // vae.side**2, vae.side, vae.side], np.int64)
        first = self._average(vae, features, mu) if vae.averages else self.layers(vae.expand, mu)
        decoded = self.layers(vae.decoder, self.add("Reshape", first, shape))
        outputs = {"reconstruction_B1PP": decoded, "mu_BZ": mu}
        if network.segmenter:
            outputs["crack_B1PP"] = self._segmenter(network.segmenter, tiles_B1PP, decoded, contrast_B1PP)
        return outputs

    def _average(self, vae: ConvVAE, features: str, mu: str) -> str:
        """As ConvVAE.average(), up to the decoder."""
        mean, variance_z = self.layers(vae.expand, mu), self.add("Exp", self.layers(vae.logvar, features))
        variance = self.add("Gemm", variance_z, self.constant(vae.expand.weight.square()), transB=1)
        deviation = self.add("Sqrt", self.add("Max", variance, self.constant(1e-12)))
        ratio = self.add("Div", mean, deviation)
        erf = self.add("Erf", self.add("Mul", ratio, self.constant(math.sqrt(0.5))))
        below = self.add("Mul", self.add("Add", erf, self.constant(1.0)), self.constant(0.5))
        bell = self.add("Exp", self.add("Mul", self.add("Mul", ratio, ratio), self.constant(-0.5)))
        density = self.add("Mul", bell, self.constant(1 / math.sqrt(2 * math.pi)))
        return self.add("Add", self.add("Mul", mean, below), self.add("Mul", deviation, density))

    def _segmenter(self, segmenter: Segmenter, tiles: str, reconstruction: str, contrast: str) -> str:
        below = self.add("Add", reconstruction, self.constant(BLACK))
        residual = self.add("Div", self.add("Sub", reconstruction, tiles), below)
        both = self.add("Concat", residual, contrast, axis=1)
        seen = self.add("Mul", self._unshuffled(both, 2), self.constant(4.0))
        fine = self.layers(segmenter.fine, seen)
        middle = self.layers(segmenter.middle, fine)
        coarse = self.layers(segmenter.to_middle, self.layers(segmenter.coarse, middle))
        middle = self.layers(segmenter.up_middle, self.add("Add", middle, self._doubled(coarse)))
        fine_again = self._doubled(self.layers(segmenter.to_fine, middle))
        fine = self.layers(segmenter.up_fine, self.add("Add", fine, fine_again))
        return self.add("DepthToSpace", self.layers(segmenter.logits, fine), blocksize=FOLD, mode="CRD")

    def _unshuffled(self, values: str, channels: int) -> str:
        """torch's pixel_unshuffle by FOLD: a convolution that copies, as ONNX's operator orders channels otherwise."""
        weights = np.zeros((channels * FOLD**2, channels, FOLD, FOLD), np.float32)
        for output, at in enumerate(np.ndindex(channels, FOLD, FOLD)):
            weights[(output, *at)] = 1
        return self.add("Conv", values, self.constant(weights), kernel_shape=[FOLD] * 2, strides=[FOLD] * 2)

    def _doubled(self, values: str) -> str:
        scales = self.constant([1.0, 1.0, 2.0, 2.0])
        return self.add(
            "Resize",
            values,
            "",
            scales,
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )

    def file(
        self,
        inputs: Mapping[str, tuple[int, Shape]],
        outputs: Mapping[str, Shape],
        properties: Mapping[str, str] | None = None,
    ) -> bytes:
        """The content of an ONNX file.

        Args:
            inputs: type and shape by name.
            outputs: shape of each float output by name.
            properties: what the file says of itself.
        """
        for name, (kind, shape) in inputs.items():
            self._graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        for name, shape in outputs.items():
            self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        helper.set_model_props(self._model, dict(properties or {}))
        return bytes(self._model.SerializeToString())
