"""The model directory: everything that changes a score, under one digest."""

import hashlib
import io
import json
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from crackvae.config import BUILTIN
from crackvae.errors import ModelError, StorageError
from crackvae.model import builtin
from crackvae.model.network import Network, pretrained_weights
from crackvae.model.spec import ModelSpec
from crackvae.storage import fileio, uris
from crackvae.storage.records import problems

WEIGHTS_FILE, MODEL_FILE, TRAINING_FILE = "vae_concrete.pth", "model.json", "training.json"
# Weights of the built-in model, in a format that holds numbers and no pickle. It is read where there is such a file.
# Those of its backbone are not in it: the package has them once, for new models too.
SAFETENSORS_FILE = "vae_concrete.safetensors"

# Increased whenever an older crackvae could misread the files.
FORMAT = 6


class _Header(BaseModel):
    """The part of model.json that says whether the rest can be read."""

    format: int | None = None
    digest: str | None = None


_SPEC = TypeAdapter(ModelSpec)


@dataclass(frozen=True)
class Model:
    """A loaded model directory, without its calibration.

    Attributes:
        spec: content of model.json.
        network: in evaluation mode, on the CPU.
        digest: of spec and weights.
    """

    spec: ModelSpec
    network: Network
    digest: str


def model_digest(spec: ModelSpec, weights: dict[str, Tensor]) -> str:
    """SHA-256 of everything that changes a score; of the numbers, as the file's bytes depend on the torch version."""
    sha256 = hashlib.sha256(json.dumps({"format": FORMAT, **spec.as_json()}, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()


def assembled(spec: ModelSpec, weights: dict[str, Tensor]) -> Model:
    """The model of a specification and weights, which it copies. Raises RuntimeError if they do not fit each other."""
    network = Network(spec)
    network.load_state_dict(weights)
    return Model(spec, network.eval(), model_digest(spec, network.state_dict()))


def model_files(spec: ModelSpec, weights: dict[str, Tensor], training: dict[str, Any]) -> dict[str, bytes]:
    """Content of the files of a model directory by name, without its calibration."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, file)
    description = {"format": FORMAT, **spec.as_json(), "digest": model_digest(spec, weights)}
    return {
        WEIGHTS_FILE: file.getvalue(),
        TRAINING_FILE: json.dumps(training, indent=1).encode(),
        MODEL_FILE: json.dumps(description, indent=1).encode(),
    }


def numbers_in(data: bytes) -> Any:
    """Content of a file of torch.save() that holds only tensors, numbers and strings.

    Raises:
        ValueError: it is damaged or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickles before it refuses them
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # the type depends on the byte that is wrong
        # torch's own message advises loading the file without the safeguard, which no user should be told.
        refused = isinstance(error, pickle.UnpicklingError)
        raise ValueError("its weights are not only numbers" if refused else uris.reason(error)) from error


def load_model(model_dir: str) -> Model:
    """Load a model directory. Only numbers are read from the weights file, so an untrusted file runs no code.

    Raises:
        ModelError: missing, damaged, of another version, or altered since it was written.
    """
    folder = builtin.folder_of(model_dir)
    again = builtin.advice(model_dir, "Copy the whole directory again, or train it again.")
    model_dir = builtin.name_of(model_dir)
    try:
        description = fileio.read_bytes(uris.join(folder, MODEL_FILE))
        is_safetensors = fileio.exists(uris.join(folder, SAFETENSORS_FILE))
        data = fileio.read_bytes(uris.join(folder, SAFETENSORS_FILE if is_safetensors else WEIGHTS_FILE))
    except StorageError as error:
        if model_dir == BUILTIN:
            raise ModelError(f"this installation has no built-in model: {error} {again}") from error
        raise ModelError(f"{model_dir} is no model directory: {error} Write one with crackvae train.") from error
    try:
        header = _Header.model_validate_json(description)
    except ValidationError as error:
        path = uris.join(folder, MODEL_FILE)
        raise ModelError(f"{path} is damaged: {problems(error)}. {again}") from error
    if header.format != FORMAT:
        raise ModelError(
            f"{model_dir} was written in format {header.format} by another version of crackvae; this one reads "
            f"{FORMAT}. Train it again, or install the version that wrote it."
        )
    try:
        spec = _SPEC.validate_json(description)
        model = assembled(spec, load(data) | pretrained_weights(spec) if is_safetensors else numbers_in(data))
    except ValidationError as error:
        raise ModelError(f"{model_dir} is damaged: {problems(error)}. {again}") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ModelError(f"{model_dir} is damaged: {uris.reason(error)}. {again}") from error
    if model.digest != header.digest:
        raise ModelError(f"{model_dir} was altered since it was written: its digest does not match. {again}")
    return model
