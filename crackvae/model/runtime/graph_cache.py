"""Exported graphs of networks, kept between starts: an export takes a second of processor time, reading it 20 ms.

The name of a file is a hash of all that its graph depends on: the digest of the model, the tiles of a pass and the code
that exports it. The file starts with a hash of its content, so that a damaged one is exported again. The folder may be
missing, read-only or deleted at any time.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch

from crackvae.model import network, spec
from crackvae.model.artifact import Model
from crackvae.model.runtime import onnx

# Graphs in the folder, the latest first: some sites with a model each. One has the size of its weights.
MAX_KEPT = 8
# Names the folder in the environment of a process; default: crackvae in the user's folder for caches.
VARIABLE = "CRACKVAE_CACHE"
_HASH_BYTES = hashlib.sha256().digest_size


def graph_of(model: Model, batch: int) -> bytes:
    """onnx.network_graph() of a model, exported once."""
    path = _folder() / f"{_key(model, batch)}.graph"
    graph = _read(path)
    if graph is None:
        graph = onnx.network_graph(model.network, batch, model.spec.input_px)
        with suppress(OSError):  # no folder, or no space: it is exported again next time
            _write(path, graph)
    return graph


def _folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get(VARIABLE) or os.path.join(caches, "crackvae"))


def _key(model: Model, batch: int) -> str:
    code = [Path(module.__file__ or "").read_bytes() for module in (network, spec, onnx)]
    facts = f"{model.digest} {batch} {torch.__version__}".encode()
    return hashlib.sha256(b"\0".join([facts, *code])).hexdigest()


def _read(path: Path) -> bytes | None:
    """The graph in a file; None if it is missing, damaged, or belongs to another user."""
    try:
        if path.stat().st_uid != os.getuid():
            return None
        data = path.read_bytes()
    except OSError:
        return None
    graph = data[_HASH_BYTES:]
    return graph if hashlib.sha256(graph).digest() == data[:_HASH_BYTES] else None


def _write(path: Path, graph: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        half.write_bytes(hashlib.sha256(graph).digest() + graph)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    kept = sorted(path.parent.glob("*.graph"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in kept[MAX_KEPT:]:
        old.unlink(missing_ok=True)
