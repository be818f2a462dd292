"""The model that the package contains. Its name is `builtin`; a folder of that name is written `./builtin`."""

from importlib.resources import files

from crackvae.config import BUILTIN
from crackvae.storage import uris

# Files of a model directory, and MODEL_CARD.md: data, recipe, figures and limits.
FOLDER = str(files("crackvae.model") / "builtin")


def folder_of(model_dir: str) -> str:
    """Absolute path or URI of a model directory that may be given as `builtin`."""
    return FOLDER if model_dir == BUILTIN else uris.absolute(model_dir)


def name_of(model_dir: str) -> str:
    """A model directory as summaries name it: `builtin`, which any machine finds, or its absolute path or URI."""
    return model_dir if model_dir == BUILTIN else uris.absolute(model_dir)


def advice(model_dir: str, otherwise: str) -> str:
    """How to replace a damaged file of a model: `otherwise`, or for the built-in model by another installation."""
    return "Install crackvae again, or name a model directory with --model." if model_dir == BUILTIN else otherwise


def calibrate_advice(model_dir: str) -> str:
    """How to set the threshold of a model again, for the images at hand."""
    if model_dir == BUILTIN:
        return "run crackvae adapt --images PHOTOGRAPHS --model NEW --quick with photographs of this site"
    return f"run crackvae calibrate --model {model_dir} with sound images of this site, or crackvae adapt"
