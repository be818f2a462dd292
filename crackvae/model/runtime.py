"""The network's pass on the hardware at hand: the reference in torch, and faster ways to the same numbers.

Shape letters: B tiles of one pass, P side of a tile at the input [px].
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import onnxruntime
import pyarrow as pa
import torch
from torch import Tensor

from crackvae.model.artifact import Model
from crackvae.model.network import Network, Output, contrast
from crackvae.model.onnx import network_graph


def release_memory() -> None:
    """Give freed memory back to the system: the allocators of Arrow and of glibc keep it for later."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)


Forward = Callable[[Tensor], Output]


@dataclass(frozen=True)
class Runtime:
    """A way to run a network.

    Attributes:
        precision: fp32, bf16 or onnx (fp32 by ONNX Runtime).
        device: cpu or cuda, where its input has to be.
        forward: input (B, 1, P, P) to the output of the network, float32; logvar_BZ may be empty.
    """

    precision: str
    device: str
    forward: Forward


def reference(model: Model) -> Runtime:
    """The network as torch runs it, in float32: what every other way is held against."""
    return Runtime("fp32", "cpu", model.network)


def runtime_of(model: Model, precision: str, batch: int, device: str = "cpu") -> Runtime:
    """The network ready to run with one thread on the CPU, or on a GPU.

    Args:
        precision: one of config.PRECISIONS. `auto` is fp32, on a CPU by ONNX Runtime: its blocked convolutions take 0.6
            of torch's time, and it starts in 0.2 s. It is never bf16, which moves scores by up to a fifth of the
            threshold (docs/log.md): faster where the hardware has it, and for whoever asks for it.
        batch: B, the same for every pass.
    """
    if precision == "auto":
        precision = "onnx" if device == "cpu" else "fp32"
    if precision == "onnx":
        return Runtime(precision, "cpu", _by_onnx(model, batch))
    if device == "cuda" and precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions, which keeps 11 bits
    network = model.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Runtime(precision, device, _by_autocast(network, device) if precision == "bf16" else network)


def has_fast_bf16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32; elsewhere it is emulated, and slower."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _by_autocast(network: Network, device: str) -> Forward:
    def forward(input_B1PP: Tensor) -> Output:
        with torch.autocast(device, torch.bfloat16):
            output = network(input_B1PP)
        crack_B1PP = None if output.crack_B1PP is None else output.crack_B1PP.float()
        return Output(output[0].float(), output[1].float(), output[2].float(), crack_B1PP)

    return forward


def _by_onnx(model: Model, batch: int) -> Forward:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one actor a core
    options.enable_mem_pattern = False  # these two save a worker 40 MB and cost no time
    options.add_session_config_entry("session.disable_prepacking", "1")
    graph = network_graph(model.network, batch, model.spec.input_px)
    session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    del graph
    release_memory()  # the export copied the weights
    names = [output.name for output in session.get_outputs()]

    def forward(input_B1PP: Tensor) -> Output:
        given = {"tiles": input_B1PP.contiguous().numpy()}
        if model.spec.segmenter:
            given["contrast"] = contrast(input_B1PP).contiguous().numpy()
        parts = dict(zip(names, map(torch.from_numpy, session.run(names, given)), strict=True))
        return Output(parts["reconstruction_B1PP"], parts["mu_BZ"], torch.empty(0), parts.get("crack_B1PP"))

    return forward
