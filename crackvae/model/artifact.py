"""The model directory: everything that changes a score, under one digest."""

import hashlib
import io
import json
import pickle
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from crackvae.errors import ModelError, StorageError
from crackvae.model.network import ModelSpec, Network
from crackvae.storage import fileio, uris

WEIGHTS_FILE, MODEL_FILE, TRAINING_FILE = "vae_concrete.pth", "model.json", "training.json"


# Changes whenever an older crackvae could misread the files.
FORMAT = 3


# -------------------------------------------------------------------------------------------- model directory


@dataclass(frozen=True)
class Model:
    """A loaded model directory, without its calibration.

    Attributes:
        spec: content of model.json.
        network: in evaluation mode, on the CPU.
        digest: of spec and weights; the same for two models exactly if their scores are.
    """

    spec: ModelSpec
    network: Network
    digest: str


def model_digest(spec: ModelSpec, weights: dict[str, Tensor]) -> str:
    """Hash of all that changes a score; of the numbers, not of the file, whose bytes depend on the torch version."""
    sha256 = hashlib.sha256(json.dumps({"format": FORMAT, **asdict(spec)}, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()


def model_files(spec: ModelSpec, weights: dict[str, Tensor], training: dict[str, Any]) -> dict[str, bytes]:
    """The files of a model directory, all but its calibration."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, file)
    description = {"format": FORMAT, **asdict(spec), "digest": model_digest(spec, weights)}
    return {
        WEIGHTS_FILE: file.getvalue(),
        TRAINING_FILE: json.dumps(training, indent=1).encode(),
        MODEL_FILE: json.dumps(description, indent=1).encode(),
    }


def numbers_in(data: bytes) -> Any:
    """What torch.save() wrote, if it is tensors, numbers and texts alone; raises ValueError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a pickle of another kind, and then refuses it anyway
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # what torch's unpickler raises depends on the byte that is wrong
        # torch advises to load such a file without its safeguard: that text must not reach a user.
        refused = isinstance(error, pickle.UnpicklingError)
        raise ValueError("its weights are not only numbers" if refused else uris.reason(error)) from error


def load_model(model_dir: str) -> Model:
    """Load a model directory; its weights are read as numbers only, so a file from a stranger runs no code.

    Raises:
        ModelError: missing, damaged, of another version, or altered since it was written.
    """
    model_dir = uris.absolute(model_dir)
    again = "Copy the whole directory again, or train it again."
    try:
        description = json.loads(fileio.read_bytes(uris.join(model_dir, MODEL_FILE)))
        data = fileio.read_bytes(uris.join(model_dir, WEIGHTS_FILE))
    except StorageError as error:
        raise ModelError(f"{model_dir} is no model directory: {error} Write one with crackvae train.") from error
    except ValueError as error:
        raise ModelError(f"{uris.join(model_dir, MODEL_FILE)} is damaged: {error}. {again}") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ModelError(
            f"{model_dir} was written in format {found} by another version of crackvae; this one reads {FORMAT}. "
            "Train it again, or install the version that wrote it."
        )
    try:
        known = {spec_field.name: description[spec_field.name] for spec_field in fields(ModelSpec)}
        spec = ModelSpec(**known | {name: tuple(known[name]) for name in ("channels", "segmenter")})
        network = Network(spec)
        network.load_state_dict(numbers_in(data))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{model_dir} is damaged: {uris.reason(error)}. {again}") from error
    digest = model_digest(spec, network.state_dict())
    if digest != description.get("digest"):
        raise ModelError(f"{model_dir} was altered since it was written: its digest does not fit. {again}")
    return Model(spec, network.eval(), digest)
