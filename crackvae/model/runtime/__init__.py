"""Runtimes of the network: the reference in torch, and faster ones for the hardware at hand.

Shape letters: B tiles of one forward pass, P side of a tile at the input [px].
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from crackvae.model.artifact import Model
from crackvae.model.network import Network, Output
from crackvae.model.runtime.bfloat16 import Bfloat16Network
from crackvae.model.runtime.graph_cache import graph_of
from crackvae.model.runtime.ort import onnxruntime


def release_memory() -> None:
    """Return freed memory to the operating system; the allocators of Arrow and glibc would keep it."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


Forward = Callable[[Tensor], Output]


@dataclass(frozen=True)
class Runtime:
    """A network, ready to run.

    Attributes:
        precision: fp32, bf16 or onnx (float32 by ONNX Runtime).
        device: cpu or cuda, where the input has to be.
        forward: from input (B, 1, P, P) to the output of the network, float32; logvar_BZ may be empty.
    """

    precision: str
    device: str
    forward: Forward


def reference(model: Model) -> Runtime:
    """The network in torch and float32, which the other runtimes are compared with."""
    return Runtime("fp32", "cpu", model.network)


def runtime_of(model: Model, precision: str, batch: int, device: str = "cpu") -> Runtime:
    """The network ready to run with one thread on the CPU, or on a GPU.

    Args:
        precision: of ScoringConfig. `auto` and `screen` are float32, on a CPU by ONNX Runtime, whose convolutions take
            0.6 of torch's time. They are never bf16 alone, which changes scores near the threshold by more than a
            hundredth of it (docs/log.md).
        batch: B, the same for every forward pass.
    """
    if precision in ("auto", "screen"):
        precision = "onnx" if device == "cpu" else "fp32"
    if precision == "onnx":
        return Runtime(precision, "cpu", _by_onnx(model, batch))
    if device == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions; it keeps 11 bits
    if device == "cpu" and precision == "bf16":
        return Runtime(precision, device, Bfloat16Network(model.network).eval())
    network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Runtime(precision, device, _by_autocast(network, device) if precision == "bf16" else network)


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def has_matrix_unit() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in a unit of their own (AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _by_autocast(network: Network, device: str) -> Forward:
    def forward(input_B1PP: Tensor) -> Output:
        with torch.autocast(device, torch.bfloat16):
            output = network(input_B1PP)
        crack_B1PP = None if output.crack_B1PP is None else output.crack_B1PP.float()
        return Output(output[0].float(), output[1].float(), output[2].float(), crack_B1PP)

    return forward


def _by_onnx(model: Model, batch: int) -> Forward:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one actor per core
    options.enable_mem_pattern = False  # these two save 40 MB per worker and cost no time
    options.add_session_config_entry("session.disable_prepacking", "1")
    graph = graph_of(model, batch)
    session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    del graph
    release_memory()  # the export copied the weights
    names = [output.name for output in session.get_outputs()]

    def forward(input_B1PP: Tensor) -> Output:
        found = session.run(names, {"tiles": input_B1PP.contiguous().numpy()})
        parts = dict(zip(names, map(torch.from_numpy, found), strict=True))
        return Output(parts["reconstruction_B1QQ"], parts["mu_BZ"], torch.empty(0), parts.get("crack_B1PP"))

    return forward
