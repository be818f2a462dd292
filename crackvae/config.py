"""Settings: one frozen dataclass a verb, checked when built; a TOML file, then flags. And what a verb returns."""

import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from crackvae.errors import ConfigError

HEADS = ("mse", "top", "dark", "crack", "evidence")
# Those that ask the segmenter.
SEGMENTER_HEADS = ("crack", "evidence")
# Convolutions of the segmenter halve a tile three times.
SEGMENTER_HALVINGS = 8
# Of the passes through the network in scoring; runtime.py says what each is.
PRECISIONS = ("auto", "fp32", "bf16", "onnx")
# Named settings of train, which a file or a flag may still change. The published loss is the textbook's: the squared
# error summed over the 128 x 128 pixels of a tile, plus the KL divergence.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "head": "mse",
        "recipe": "plain",
        "segmenter": (),
        "epochs": 10,
        "learning_rate": 1e-3,
        "beta": 1 / 128**2,
        "schedule": "constant",
        "precision": "fp32",
    },
}
FORMATS = ("parquet", "csv")


def setting(text: str, default: Any = MISSING) -> Any:
    """A field of a settings class with its help text; without a default it is required."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Outcome:
    """What a verb returns and prints.

    Attributes:
        summary: JSON values; the last line on standard output.
        tables: pandas tables by title, in the order in which they are printed.
    """

    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class VerbConfig:
    """What every verb takes."""

    quiet: bool = setting("no progress", False)
    s3_endpoint: str = setting(
        "S3 server other than Amazon's, http://HOST:PORT; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", ""
    )

    def __post_init__(self) -> None:
        if "@" in self.s3_endpoint:
            raise ConfigError("s3-endpoint holds a name or password: put AWS_ACCESS_KEY_ID and its secret instead.")
        seed = getattr(self, "seed", 0)
        if seed < 0:
            raise ConfigError(f"seed={seed} must be 0 or more.")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(VerbConfig):
    """Where a verb that needs Ray runs, and how fast. Nothing here changes a score."""

    address: str = setting("Ray cluster to use; default: RAY_ADDRESS, or else a local one for this run", "")
    gpu: bool = setting("one GPU a worker", False)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(ClusterConfig):
    """A verb that sends images through the scoring pipeline."""

    workers: int | None = setting("scoring actors; default: one a CPU, or one a GPU with --gpu", None)
    batch: int | None = setting("tiles in one pass through the network; default: 8, or 256 with --gpu", None)
    precision: str = setting(
        "of the network: auto (onnx, with --gpu fp32), fp32 (torch, the reference), onnx (fp32 by ONNX Runtime, CPU "
        "only), or bf16 (faster where the hardware has it; scores move by up to a fifth of the threshold)",
        "auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch={self.batch} must be 1 or more.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers} must be 1 or more.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision} is not one of {', '.join(PRECISIONS)}.")
        if self.precision == "onnx" and self.gpu:
            raise ConfigError("precision=onnx runs on CPUs: leave out --gpu, or give --precision auto.")


@dataclass(frozen=True, kw_only=True)
class PartitionConfig(VerbConfig):
    """Split labelled images by group into train, val and test, and an external set; find what leaks between them."""

    images: str = setting("folder, .zip or URI with one subfolder a label")
    out: str = setting("folder to write manifest.parquet to")
    labels: dict[str, str] = setting(
        "FOLDER=LABEL,... with LABEL non_crack or crack",
        {"Negative": "non_crack", "Positive": "crack", "non_crack": "non_crack", "crack": "crack"},
    )
    external: tuple[int, ...] = setting("images of the external set: NON_CRACK,CRACK", (5_000, 15_000))
    non_crack_split: tuple[int, ...] = setting("internal non_crack images in train,val,test [%%]", (80, 10, 10))
    crack_split: tuple[int, ...] = setting("internal crack images in val,test [%%]; none are trained on", (10, 90))
    group_by: str = setting(
        "what stays on one side of a split: near-duplicate, parent (folder), none (leaks!), or a regular "
        "expression on the path below --images, whose first group or match is the name",
        "near-duplicate",
    )
    groups: str = setting("CSV with columns image (path below --images) and group, instead of --group-by", "")
    group_column: str = setting("column of --groups; default: group, or else the last one", "")
    seed: int = setting("another seed is another split", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.labels.values()) != {"non_crack", "crack"}:
            raise ConfigError(
                f"labels={_flag_text(self.labels)} must map folders to non_crack and to crack, and to nothing else. "
                "Try --labels Negative=non_crack,Positive=crack."
            )
        if len(self.external) != 2 or min(self.external) < 0:
            raise ConfigError(f"external={_flag_text(self.external)} must be two counts, such as 5000,15000 or 0,0.")
        for name, split, parts in (("non-crack", self.non_crack_split, 3), ("crack", self.crack_split, 2)):
            if len(split) != parts or min(split) < 0 or sum(split) != 100:
                raise ConfigError(f"{name}-split={_flag_text(split)} must be {parts} percentages that add up to 100.")
        check_group_by(self.group_by)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ClusterConfig):
    """Train the ConvVAE on the sound images of a manifest. What changes a score is set here and kept with the model."""

    manifest: str = setting("manifest.parquet written by partition")
    model: str = setting("directory to write the model to; must not exist yet")
    preset: str = setting("published: the recipe of the published ConvVAE; other settings win over it", "")
    head: str = setting(
        "score head: crack (darkness that the segmenter takes for a crack), evidence (how surely it does, however dark "
        "it is), dark (darkness alone), mse (mean squared residual) or top (mean of the top 1 %% of them)",
        "crack",
    )
    recipe: str = setting("repair (draw cracks on the tiles, reconstruct them without) or plain", "repair")
    epochs: int | None = setting("passes over the sound images of train; default: as many as show 60,000 tiles", None)
    workers: tuple[int, ...] = setting(
        "data-parallel workers: N, or MIN,MAX to go on with fewer when a node leaves, and with more when one comes",
        (1,),
    )
    max_failures: int = setting("deaths of workers or nodes that are survived, each from the last epoch", 3)
    resume: str = setting(
        "folder of an interrupted run to go on with (MODEL.training): no other setting need be given", ""
    )
    batch: int = setting("images a step, over all workers", 64)
    learning_rate: float = setting("of Adam, at its highest", 2e-3)
    schedule: str = setting("of the learning rate: cosine (rise, then fall to 0) or constant", "cosine")
    clip_norm: float | None = setting("longest gradient, longer ones are shortened; default: any length", None)
    patience: int | None = setting(
        "stop after so many epochs without a lower validation loss; default: train to the end", None
    )
    augment: bool = setting(
        "with --recipe plain: turn, mirror and expose the tiles by chance; repair always does", False
    )
    precision: str = setting("of the passes in training: auto (bf16 where the hardware has it), bf16 or fp32", "auto")
    beta: float = setting("weight of the KL divergence [squared grey level a nat]", 1e-6)
    latent_dim: int = setting("dimensions of the latent space", 128)
    channels: tuple[int, ...] = setting("output channels of the stride-2 convolutions", (32, 64, 128, 256))
    segmenter: tuple[int, ...] = setting("channels of the segmenter at its three scales; empty: none", (24, 48, 64))
    input_px: int = setting("side of a tile at the network's input [px]", 128)
    tile_px: int = setting("side of a tile in the image [px]", 227)
    stride_px: int = setting("distance of neighbouring tiles in a large image [px], at most tile_px", 170)
    percentile: float = setting("of the val non_crack scores: the threshold", 95.0)
    seed: int = setting("of weights, shuffling and sampling", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.workers) <= 2 or min(self.workers) < 1 or self.workers[0] > self.workers[-1]:
            raise ConfigError(
                f"workers={_flag_text(self.workers)} must be 1 or more, or MIN,MAX such as 1,4 with MIN at most MAX."
            )
        if self.max_failures < 0:
            raise ConfigError(f"max_failures={self.max_failures} must be 0 or more.")
        if self.augment and self.recipe == "repair":
            raise ConfigError("recipe=repair turns, mirrors and exposes its tiles anyway: leave out --augment.")
        for name in (
            "epochs", "batch", "latent_dim", "tile_px", "stride_px", "learning_rate", "clip_norm", "patience",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}={value:g} must be greater than 0, and finite.")
        for name, choices in (
            ("head", HEADS),
            ("recipe", ("repair", "plain")),
            ("schedule", ("cosine", "constant")),
            ("precision", ("auto", "bf16", "fp32")),
            ("preset", ("", *PRESETS)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)} is not one of {', '.join(filter(None, choices))}.")
        if not 0 <= self.beta < math.inf:
            raise ConfigError(f"beta={self.beta:g} must be 0 or more, and finite.")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels={_flag_text(self.channels)} must be one or more counts, such as 32,64,128.")
        halvings = 2 ** len(self.channels)
        if self.workers[-1] > self.batch:
            raise ConfigError(
                f"workers={_flag_text(self.workers)} are more than batch={self.batch} images: give fewer workers."
            )
        if self.input_px < halvings or self.input_px % halvings:
            raise ConfigError(
                f"input_px={self.input_px} must be a multiple of {halvings}: {len(self.channels)} convolutions halve "
                f"it. Try input_px={max(1, self.input_px // halvings) * halvings}."
            )
        if self.stride_px > self.tile_px:
            raise ConfigError(
                f"stride_px={self.stride_px} must lie in 1..tile_px={self.tile_px}: a larger stride leaves strips "
                f"of the image unscored. Try stride_px={self.tile_px * 3 // 4}."
            )
        self._check_segmenter()
        check_percentile(self.percentile)

    def _check_segmenter(self) -> None:
        if self.head in SEGMENTER_HEADS and not self.segmenter:
            raise ConfigError(f"head={self.head} needs a segmenter: give --segmenter 24,48,64, or another --head.")
        if not self.segmenter:
            return
        if self.recipe != "repair":
            raise ConfigError("a segmenter learns from drawn cracks: give --recipe repair, or no --segmenter.")
        if len(self.segmenter) != 3 or min(self.segmenter) < 1:
            raise ConfigError(f"segmenter={_flag_text(self.segmenter)} must be three counts, such as 24,48,64.")
        if self.input_px % SEGMENTER_HALVINGS or self.input_px < 2 * SEGMENTER_HALVINGS:
            raise ConfigError(
                f"input_px={self.input_px} must be a multiple of {SEGMENTER_HALVINGS} and at least "
                f"{2 * SEGMENTER_HALVINGS} for a segmenter. Try input_px=128."
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(ScoringConfig):
    """Set a model's threshold from the scores of sound images that it was not trained on."""

    model: str = setting("model directory; its calibration.json is replaced")
    manifest: str = setting("manifest.parquet: its val non_crack images are scored", "")
    images: str = setting("or a folder, .zip or URI of sound images only", "")
    percentile: float = setting("of the sound scores: the threshold", 95.0)
    max_false_alarm: float | None = setting("or the share of sound images that may be flagged, such as 0.01", None)
    confidence: float | None = setting("with which --max-false-alarm holds; default: on average", None)
    one_per_group: bool = setting(
        "take one image of each group, drawn by chance: a promise needs independent ones", False
    )
    seed: int = setting("of --one-per-group", 0)
    verdicts: str = setting("CSV downloaded from a page: images that a person called cracks are left out", "")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.manifest) == bool(self.images):
            raise ConfigError("calibrate needs either --manifest or --images, and not both.")
        check_percentile(self.percentile)
        for name in ("max_false_alarm", "confidence"):
            value = getattr(self, name)
            if value is not None and not 1e-9 <= value <= 1 - 1e-9:
                raise ConfigError(f"{name}={value:g} must lie between 0 and 1.")
        if self.confidence is not None and self.max_false_alarm is None:
            raise ConfigError("--confidence needs --max-false-alarm: a percentile promises no rate.")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ScoringConfig):
    """Score a labelled split and the external set, and say how well cracks are told from sound concrete."""

    manifest: str = setting("manifest.parquet written by partition")
    model: str = setting("model directory written by train")
    out: str = setting("directory to write metrics and predictions to; must not exist yet")
    split: str = setting("internal split to judge: val or test", "test")
    masks: str = setting("folder of masks named like the cracked images, white where cracked: also judge the maps", "")
    one_per_group: bool = setting("judge one image of each group, drawn by chance: independent images", False)
    resamples: int = setting("bootstrap resamples of the groups, for 95 %% intervals", 1000)
    seed: int = setting("of the bootstrap and of --one-per-group", 0)
    no_report: bool = setting("write no page", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split not in ("val", "test"):
            raise ConfigError(f"split={self.split} must be val or test: train holds no cracks.")
        if self.resamples < 100:
            raise ConfigError(f"resamples={self.resamples} must be 100 or more for a 95 % interval.")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ScoringConfig):
    """Score every image below a place once: one row an image, whatever happens to it."""

    images: str = setting(
        "folder, .zip or URI of images; with wildcards (2026-*/); or @FILE, a text or Parquet list of images"
    )
    model: str = setting("model directory written by train")
    out: str = setting("folder of the scores table; a rerun adds what is missing; one run at a time")
    since: str = setting(
        "only images modified then or later: 2026-11-23, or 2026-11-23T18:00 [UTC, or with +01:00]", ""
    )
    prefix: str = setting("only images whose path below --images starts so: 2026-11-2, or bridge-7/", "")
    format: tuple[str, ...] = setting("parquet, or parquet,csv", ("parquet",))
    group_by: str = setting("group of each row: parent (folder), none, or a regular expression on the path", "parent")
    max_false_discovery: float | None = setting(
        "also list the images among which at most this share is expected to be sound, such as 0.1", None
    )
    max_unreadable: str = setting("most unreadable images before the exit code is 2: a count (5) or share (1%%)", "10%")
    max_unreachable: str = setting("the same for images that storage does not give", "10%")
    no_report: bool = setting("write no page", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "parquet" not in self.format or not set(self.format) <= set(FORMATS):
            raise ConfigError(
                f"format={_flag_text(self.format)} must be parquet or parquet,csv: a rerun reads Parquet."
            )
        if self.max_false_discovery is not None and not 0 < self.max_false_discovery < 1:
            raise ConfigError(f"max_false_discovery={self.max_false_discovery:g} must lie between 0 and 1.")
        limit_of(self.max_unreadable, 0)
        limit_of(self.max_unreachable, 0)
        check_group_by(self.group_by)
        time_of(self.since)


@dataclass(frozen=True, kw_only=True)
class CompactConfig(VerbConfig):
    """Merge the parts of many nights into a few, with one row an image and model: the latest."""

    scores: str = setting("folder of the scores table; no other run may write into it meanwhile")


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(ScoreConfig):
    """Score what is new, compare the night with the calibration, sum it up; exit code 2 where a limit is broken."""

    night: str = setting("YYYY-MM-DD that the runs are counted for; default: today in UTC", "")
    fail_on: str = setting("drift that breaks the limit: watch or alarm", "alarm")
    drift_psi: tuple[float, ...] = setting("population stability index, beyond chance: WATCH,ALARM", (0.1, 0.25))
    drift_ks: tuple[float, ...] = setting("Kolmogorov-Smirnov distance, beyond chance: WATCH,ALARM", (0.1, 0.2))
    drift_unreadable: tuple[float, ...] = setting("share of unreadable images: WATCH,ALARM", (0.01, 0.05))
    drift_flagged: float = setting("share of flagged images over that of ordinary nights that is an alarm", 0.02)
    drift_min_images: int = setting("fewer scored images are not compared", 50)
    linger: int = setting("time to stay connected at the end, for one more scrape of the metrics [s]", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.night and not _is_date(self.night):
            raise ConfigError(f"night={self.night} is no date: write it as 2026-11-23.")
        if self.fail_on not in ("watch", "alarm"):
            raise ConfigError(f"fail-on={self.fail_on} must be watch or alarm.")
        for name in ("drift_psi", "drift_ks", "drift_unreadable"):
            limits = getattr(self, name)
            if len(limits) != 2 or not 0 < limits[0] <= limits[1] < math.inf:
                raise ConfigError(f"{flag(name)} {_flag_text(limits)} must be two rising limits, such as 0.1,0.25.")
        if not 0 <= self.drift_flagged < 1:
            raise ConfigError(
                f"{flag('drift_flagged')} {self.drift_flagged:g} must be a share from 0 to 1, such as 0.02."
            )
        if not 0 <= self.linger <= 3600:
            raise ConfigError(f"linger={self.linger} must lie in 0..3600 s.")
        if self.drift_min_images < 20:
            raise ConfigError(f"{flag('drift_min_images')} {self.drift_min_images} must be 20 or more to tell.")


# More pictures than this would have to be too small to judge in a page of 15 MB.
MAX_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class ReportConfig(VerbConfig):
    """Write one HTML page of a night's scores, or of an evaluation: opens anywhere, needs no network."""

    scores: str = setting("folder of a scores table", "")
    evaluation: str = setting("or folder of an evaluation", "")
    out: str = setting("HTML file to write; replaced if it is there")
    run: str = setting("run to show, or all; default: the latest that scored anything", "")
    model: str = setting("model directory; default: the one that the scores were made with, where it still is", "")
    worst: int = setting("most suspicious images in the review queue; of an evaluation: images in each gallery", 48)
    passed: int = setting("random images that passed, to look for misses", 12)
    photographs: int = setting("large photographs that are shown whole, with every tile", 4)
    mm_per_px: float | None = setting("scale of the images, for crack sizes in millimetres", None)
    full_size: bool = setting("also write PNGs of the shown images in full size into a folder beside the page", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.scores) == bool(self.evaluation):
            raise ConfigError("give either --scores or --evaluation.")
        for name in ("worst", "passed", "photographs"):
            if not 0 <= getattr(self, name) <= MAX_SHOWN:
                raise ConfigError(f"{name}={getattr(self, name)} must lie in 0..{MAX_SHOWN}: a page stays under 15 MB.")
        if self.mm_per_px is not None and not 0 < self.mm_per_px < math.inf:
            raise ConfigError(f"mm_per_px={self.mm_per_px:g} must be greater than 0, and finite.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(VerbConfig):
    """Write a model as an ONNX file, for programs without this code, and check that it gives the same scores."""

    model: str = setting("model directory written by train")
    out: str = setting("ONNX file to write; replaced if it is there")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(VerbConfig):
    """Draw concrete and cracks, then partition, train, evaluate and score them; print where to look."""

    out: str = setting("folder; each demo makes a new one in it", "demo")
    images: int = setting("drawn non_crack images; a third as many crack images", 900)
    epochs: int = setting("of training", 12)
    seed: int = setting("another seed draws other images", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 200:
            raise ConfigError(f"images={self.images} must be 200 or more: fewer calibrate no threshold.")
        if self.epochs < 1:
            raise ConfigError(f"epochs={self.epochs} must be 1 or more.")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def check_percentile(percentile: float) -> None:
    if not 50 <= percentile < 100:
        raise ConfigError(f"percentile={percentile:g} must lie in 50..100 (100 excluded): the published one is 95.")


def check_group_by(group_by: str) -> None:
    try:
        re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"group-by={group_by} is no regular expression: {error}. "
            "Try parent, or an expression such as (bridge-[0-9]+)."
        ) from error


def time_of(text: str) -> datetime | None:
    """A date or a time such as `2026-11-23T18:00+01:00`, in UTC where it names no zone; None for no text."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"since={text} is no date or time: write 2026-11-23 or 2026-11-23T18:00+01:00.") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def limit_of(text: str, n_images: int) -> float:
    """A limit such as `5` (images) or `1%` (of n_images) as a number of images."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    is_share = text.endswith("%")
    if not (0 <= value <= 100 if is_share else value >= 0 and value.is_integer()):
        raise ConfigError(f"{text!r} is no limit: write a count such as 5, or a share such as 1%.")
    return value / 100 * n_images if is_share else value


# ------------------------------------------------------------------------------- from text and TOML to settings


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parse_value(annotation: Any, text: str) -> Any:
    """The value of a setting from the text of a flag.

    Raises:
        ValueError: the text is no value of that type.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        return parse_value(arguments[0], text)
    if origin is tuple:
        return tuple(arguments[0](part) for part in text.split(",") if part)
    if origin is dict:
        pairs = [part.split("=") for part in text.split(",") if part]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("not NAME=VALUE,...")
        return dict(pairs)
    return annotation(text)


def read_settings(file: str, config_class: type[VerbConfig]) -> dict[str, Any]:
    """Settings of a verb from a TOML file; keys are flags with or without dashes."""
    try:
        values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {file}: {error}. Mend the file, or give the settings as flags.") from error
    known = {config_field.name: config_field for config_field in fields(config_class)}
    settings = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"--config {file}: unknown setting {key!r}. Known: {', '.join(sorted(known))}.")
        settings[name] = _toml_value(file, known[name], value, typing.get_type_hints(config_class)[name])
    return settings


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, over those of the preset they name; a wrong name is left to the settings class."""
    return PRESETS.get(values.get("preset", ""), {}) | values


def _toml_value(file: str, config_field: "Field[Any]", value: Any, annotation: Any) -> Any:
    """TOML's own type where it fits (lists, tables, numbers); a text is read as the flag's text would be."""
    shape = typing.get_origin(annotation) or annotation
    try:
        if isinstance(value, bool) != (shape is bool):
            raise ValueError("not true or false" if shape is bool else "true and false are for switches")
        if (isinstance(value, list) and shape is not tuple) or (isinstance(value, Mapping) and shape is not dict):
            raise ValueError("one value is meant")
        if isinstance(value, bool):
            return value
        return parse_value(annotation, _flag_text(value))
    except ValueError as error:
        raise ConfigError(f"--config {file}: {config_field.name} = {value!r} is wrong: {error}.") from error


def _flag_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
