"""Settings of the verbs that make a model, partition, train, adapt and learn; and of the demo."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from crackvae.config.common import (
    BUILTIN,
    EXCLUDE,
    MAX_BATCH,
    MIRRORS,
    MODEL,
    PERCENTILE,
    PUBLISHED_PERCENTILE,
    ClusterConfig,
    VerbConfig,
    new_model_problem,
    without_effect,
)
from crackvae.config.settings import Location, Locations, flag_text, group_by_problem, setting

Head = Literal["mse", "evidence"]
Recipe = Literal["repair", "plain"]
Backbone = Literal["none", "imagenet"]
HEADS: tuple[str, ...] = get_args(Head)
# Score heads that use the segmenter.
SEGMENTER_HEADS = ("evidence",)
# The segmenter sees a tile and the tile at half its side, and its convolutions halve both four times.
SEGMENTER_HALVINGS = 32
# The backbone sees the tile at half its side and halves it five times.
BACKBONE_HALVINGS = 64
# Beside a segmenter the ConvVAE sees the tile's mean over squares of this side [px]: it reconstructs the surface behind
# a crack, which varies slowly. At full scale it would cost more than the segmenter.
SEGMENTER_COARSE = 4
# Channels of the default segmenter.
SEGMENTER_CHANNELS = (16, 32, 64, 96)
# Named settings of train, which a file or a flag may still change. The published loss is the textbook's: the squared
# error summed over the 128 x 128 pixels of a tile, plus the KL divergence.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "head": "mse",
        "recipe": "plain",
        "segmenter": (),
        "backbone": "none",
        "epochs": 10,
        "learning_rate": 1e-3,
        "beta": 1 / 128**2,
        "schedule": "constant",
        "precision": "fp32",
        "channels": (32, 64, 128, 256),
        "input_px": 128,
        "tile_px": 227,
        "stride_px": 170,
        "batch": 64,
        "clip_norm": None,
    },
}


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """The given settings, completed by those of the preset they name; a wrong name is left to the settings class."""
    return PRESETS.get(values.get("preset", ""), {}) | values


@dataclass(frozen=True, kw_only=True)
class PartitionConfig(VerbConfig):
    """Split labelled images by group into train, val and test, and an external set; report leaks between them."""

    images: Location = setting("folder, .zip or URI with one subfolder per label; sound images alone will do")
    exclude: tuple[str, ...] = setting(EXCLUDE, ())
    out: Location = setting("folder to write manifest.parquet to")
    labels: dict[str, str] = setting(
        "FOLDER=LABEL,... with LABEL non_crack or crack",
        {"Negative": "non_crack", "Positive": "crack", "non_crack": "non_crack", "crack": "crack"},
    )
    external: tuple[int, ...] = setting(
        "images of the external set: NON_CRACK,CRACK",
        (5_000, 15_000),
        ge=0,
        lengths=(2,),
        must="be two counts, such as 5000,15000 or 0,0",
    )
    non_crack_split: tuple[int, ...] = setting(
        "internal non_crack images in train,val,test [%]", (80, 10, 10), ge=0, lengths=(3,), must="be 3 percentages"
    )
    crack_split: tuple[int, ...] = setting(
        "internal crack images in val,test [%]; none are used for training",
        (10, 90),
        ge=0,
        lengths=(2,),
        must="be 2 percentages",
    )
    group_by: str = setting(
        "what is kept on one side of a split: near-duplicate, parent (folder), none (leaks!), or a regular "
        "expression on the path below --images, whose first group or whole match is the name of the group",
        "near-duplicate",
    )
    groups: Location = setting("CSV with the columns image (path below --images) and group, instead of --group-by", "")
    group_column: str = setting("column of --groups; default: group, or else the last one", "")
    seed: int = setting("random seed of the split", 0, ge=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if "non_crack" not in self.labels.values() or set(self.labels.values()) - {"non_crack", "crack"}:
            yield (
                f"labels={flag_text(self.labels)} must map folders to non_crack or crack, at least one to non_crack. "
                "Try --labels Negative=non_crack,Positive=crack."
            )
        for name in ("non_crack_split", "crack_split"):
            split = getattr(self, name)
            if sum(split) != 100:
                yield f"{name}={flag_text(split)} must be {len(split)} percentages that add up to 100."
        yield from group_by_problem(self.group_by)
        if not self.groups:
            yield from without_effect(self, ("group_column",), "without --groups")


@dataclass(frozen=True, kw_only=True)
class DataParallelConfig(ClusterConfig):
    """Settings of a verb that trains a network."""

    workers: tuple[int, ...] = setting(
        "data-parallel workers: N, or MIN,MAX to continue with fewer when a node leaves and with more when one joins",
        (1,),
        ge=1,
        lengths=(1, 2),
        must="be 1 or more, or MIN,MAX such as 1,4 with MIN at most MAX",
    )
    max_failures: int = setting(
        "worker failures to tolerate; each time training continues after the last complete epoch", 3, ge=0
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.workers[0] > self.workers[-1]:
            yield f"workers={flag_text(self.workers)} must be 1 or more, or MIN,MAX such as 1,4 with MIN at most MAX."


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataParallelConfig):
    """Train the ConvVAE on the sound images of a manifest. What changes a score is set here and kept with the model."""

    manifest: Location = setting("manifest.parquet written by partition")
    model: Location = setting("directory to write the model to; must not exist yet")
    from_: Location = setting(
        f"{MODEL}; to start from, with its kind of network, tiles and score head; default: random weights", ""
    )
    hard: int = setting(
        "times that each of the hardest 5 % of the tiles is shown in an epoch: those in which the model of --from sees "
        "most of a crack. Only for images that somebody has looked at: a crack among them would be unlearned",
        1,
        ge=1,
        le=20,
    )
    preset: Literal["", "published"] = setting(
        "published: the recipe of the published ConvVAE; other settings override it", ""
    )
    head: Head = setting(
        "score head: evidence (of a crack, by the segmenter) or mse (mean squared residual of the reconstruction)",
        "evidence",
    )
    recipe: Recipe = setting("repair (reconstruct tiles without the synthetic cracks drawn on them) or plain", "repair")
    epochs: int | None = setting(
        "passes over the sound images of train; default: as many as show 120,000 tiles, or 40,000 with --from",
        None,
        gt=0,
    )
    resume: Location = setting("folder of an interrupted run to continue (MODEL.training); needs no other settings", "")
    batch: int = setting("tiles per step, over all workers", 16, gt=0, le=MAX_BATCH)
    learning_rate: float = setting("peak learning rate of Adam; with --from by default 0.001", 2e-3, gt=0)
    schedule: Literal["cosine", "constant"] = setting(
        "learning-rate schedule: cosine (warm-up, then decay to 0) or constant", "cosine"
    )
    clip_norm: float | None = setting("maximum gradient norm; none: no clipping", 1.0, gt=0)
    patience: int | None = setting(
        "stop after this many epochs without a lower validation loss; default: never stop early", None, gt=0
    )
    augment: bool = setting(
        "random rotation, flip and exposure of the tiles with --recipe plain; repair always does it", False
    )
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "precision of training: auto (bf16 on hardware that supports it), bf16 or fp32", "auto"
    )
    beta: float = setting("weight of the KL divergence [squared grey level per nat]", 1e-6, ge=0)
    latent_dim: int = setting("dimensions of the latent space", 128, gt=0)
    channels: tuple[int, ...] = setting(
        "output channels of the stride-2 convolutions",
        (16, 32, 64, 256),
        ge=1,
        lengths=range(1, 32),
        must="be one or more counts, such as 32,64,128",
    )
    segmenter: tuple[int, ...] = setting(
        "channels of the segmenter at its four scales, finest first; empty: no segmenter",
        SEGMENTER_CHANNELS,
        ge=1,
        lengths=(0, 4),
        must=f"be four counts, such as {flag_text(SEGMENTER_CHANNELS)}",
    )
    backbone: Backbone = setting(
        "pretrained network whose features the segmenter sees: imagenet (EfficientNet-Lite0, which is not trained "
        "further) or none: fewer cracks at the same false-alarm rate, and scoring in three quarters of the time",
        "imagenet",
    )
    input_px: int = setting("side of a tile at the network's input [px]", 256)
    tile_px: int = setting("side of a tile in the image [px]", 256, gt=0)
    stride_px: int = setting("distance between neighbouring tiles in a large image [px], at most tile_px", 192, gt=0)
    mirrors: int = setting(MIRRORS, 1, ge=1, le=4)
    percentile: float = setting(
        "percentile of the val non_crack scores used as threshold", PUBLISHED_PERCENTILE, **PERCENTILE
    )
    seed: int = setting("random seed of weights, shuffling and sampling", 0, ge=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from new_model_problem(self.model)
        if self.hard > 1 and not self.from_:
            yield f"hard={self.hard} needs a model that says which tiles are hard: give --from, such as --from builtin."
        if self.workers[-1] > self.batch:
            yield f"workers={flag_text(self.workers)} is more than batch={self.batch} tiles: use fewer workers."
        if self.augment and self.recipe == "repair":
            yield "recipe=repair always rotates, flips and changes the exposure of its tiles: omit --augment."
        yield from self._input_problems()
        if self.stride_px > self.tile_px:
            yield (
                f"stride_px={self.stride_px} must lie in 1..tile_px={self.tile_px}: a larger stride leaves strips "
                f"of the image unscored. Try stride_px={self.tile_px * 3 // 4}."
            )
        yield from self._segmenter_problems()

    def _input_problems(self) -> Iterator[str]:
        multiple = 2 ** len(self.channels)
        if self.segmenter:
            halvings = SEGMENTER_HALVINGS if self.backbone == "none" else BACKBONE_HALVINGS
            multiple = math.lcm(SEGMENTER_COARSE * multiple, halvings)
        if self.input_px < multiple or self.input_px % multiple:
            yield (
                f"input_px={self.input_px} must be a positive multiple of {multiple}: the network halves it. "
                f"Try input_px={max(multiple, self.input_px // multiple * multiple)}."
            )

    def _segmenter_problems(self) -> Iterator[str]:
        if self.head in SEGMENTER_HEADS and not self.segmenter:
            channels = flag_text(SEGMENTER_CHANNELS)
            yield f"head={self.head} needs a segmenter: use --segmenter {channels}, or --head mse."
        if self.mirrors > 1 and self.head not in SEGMENTER_HEADS:
            yield f"mirrors={self.mirrors} has no effect on head={self.head}: leave out one of them."
        if self.backbone != "none" and not self.segmenter:
            yield f"backbone={self.backbone} is for the segmenter, and there is none: add --backbone none."
        if self.segmenter and self.recipe != "repair":
            yield "a segmenter learns from synthetic cracks: use --recipe repair, or no --segmenter."


@dataclass(frozen=True, kw_only=True)
class SiteConfig(ClusterConfig):
    """Settings of a verb that fits a model to tiles of a site, most of them unlabelled."""

    max_cracked: float = setting(
        "largest share of tiles with cracks among the unlabelled ones; these are set aside", 0.05, ge=0, le=0.1
    )
    seed: int = setting("random seed of the split, of shuffling and of synthetic cracks", 0, ge=0)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(SiteConfig, DataParallelConfig):
    """Fit a model to the photographs of one site, without a label: set its threshold, fine-tune it where that helps.

    Photographs and tiles may be mixed, and a few per cent of their tiles may show cracks.
    """

    images: Location = setting("folder, .zip or URI of the site's photographs or tiles, most of them sound")
    model: Location = setting("directory to write the model to; must not exist yet")
    from_: Location = setting(f"{MODEL}; to start from", BUILTIN)
    quick: bool = setting("keep the weights and set the threshold alone: about a minute instead of six", False)
    group_by: str = setting(
        "which images belong together, and are used either for training or for the threshold: none (each is its own), "
        "parent (folder), or a regular expression on the path below --images, whose first group or whole match is the "
        "name of the group",
        "none",
    )
    max_false_alarm: float = setting("share of sound tiles that may be flagged", 0.01, gt=0, le=0.2)
    epochs: int | None = setting(
        "passes over the training tiles; default: as many as show 12,000 tiles, at most 6", None, gt=0
    )
    learning_rate: float = setting("peak learning rate of Adam", 1e-3, gt=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from new_model_problem(self.model)
        yield from group_by_problem(self.group_by)


@dataclass(frozen=True, kw_only=True)
class LearnConfig(SiteConfig):
    """Make a challenger from a model and the verdicts of reviewers; takes a minute.

    The last layer of the network is fitted to judged cracks and judged false alarms. The threshold is set on images of
    the same nights that were not learned from.
    """

    model: Location = setting(f"{MODEL}, or a registry: the model to start from", BUILTIN)
    scores: Locations = setting("folders of scores with a log of verdicts, of any number of nights")
    out: Location = setting("directory to write the challenger to; must not exist yet")
    group_by: Literal["table", "none"] = setting(
        "which images belong together, and are used either to learn from or for the threshold: table (those of a group "
        "of the scores) or none (each is its own)",
        "table",
        must="be table or none",
    )
    max_false_alarm: float | None = setting(
        "share of sound tiles that may be flagged; default: that of the model", None, gt=0, le=0.2
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from new_model_problem(self.out)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(VerbConfig):
    """Draw photographs of concrete and score them with the built-in model, or run every verb on drawn images."""

    out: Location = setting("folder; each demo creates a new one in it", "demo")
    model: Location = setting(MODEL, BUILTIN)
    train: bool = setting("draw labelled images, then partition, train, evaluate and score; takes minutes", False)
    images: int = setting(
        "drawn non_crack images with --train; a third as many crack images",
        900,
        ge=200,
        why=": fewer calibrate no threshold",
    )
    epochs: int = setting("epochs of --train", 12, ge=1)
    seed: int = setting("random seed of the drawings", 0, ge=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if not self.train:
            yield from without_effect(self, ("images", "epochs"), "without --train")
