"""The public functions of `crackvae`, one per verb, built from the settings classes so that nothing is listed twice."""

import importlib
import inspect
import os
import re
import textwrap
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

from crackvae import config, errors, results
from crackvae.config.settings import Location, Locations, suggestion
from crackvae.errors import CrackvaeError, LimitBroken


@dataclass(frozen=True)
class Verb:
    """Where the function of a verb is, and what its documentation says beyond its settings.

    Attributes:
        module: imported when the verb is called, so that `--help` needs neither Ray nor PyTorch.
        errors: what it raises, the most specific first.
        example: arguments of a call in the documentation, and what is done with its result.
    """

    module: str
    config: type[config.VerbConfig]
    result: type[results.Result]
    errors: tuple[type[CrackvaeError], ...]
    example: tuple[str, ...]


_INPUT = (errors.StorageError, errors.ModelError, errors.ClusterError)
VERBS = {
    "partition": Verb(
        "crackvae.images.manifest",
        config.PartitionConfig,
        results.PartitionResult,
        (errors.ManifestError, errors.LeakError, errors.OutputExists, errors.StorageError, errors.ArchiveError),
        ('split = crackvae.partition(images="METU", out="data")', "split.manifest"),
    ),
    "train": Verb(
        "crackvae.training.driver",
        config.TrainConfig,
        results.TrainResult,
        (errors.ManifestError, errors.OutputExists, errors.FolderInUse, errors.CalibrationError, *_INPUT),
        ('trained = crackvae.train(manifest="data/manifest.parquet", model="model")', "trained.threshold"),
    ),
    "adapt": Verb(
        "crackvae.training.adapt",
        config.AdaptConfig,
        results.AdaptResult,
        (
            errors.CalibrationError,
            errors.ManifestError,
            errors.OutputExists,
            errors.FolderInUse,
            errors.ArchiveError,
            *_INPUT,
        ),
        ('adapted = crackvae.adapt(images="photographs", model="site", from_="model")', "adapted.meaning"),
    ),
    "calibrate": Verb(
        "crackvae.scoring.calibrate",
        config.CalibrateConfig,
        results.CalibrateResult,
        (errors.CalibrationError, errors.ManifestError, errors.OutputExists, errors.ArchiveError, *_INPUT),
        ('done = crackvae.calibrate(model="model", images="sound", max_false_alarm=0.01)', "done.level"),
    ),
    "evaluate": Verb(
        "crackvae.evaluation",
        config.EvaluateConfig,
        results.EvaluateResult,
        (errors.ManifestError, errors.OutputExists, errors.ArchiveError, *_INPUT),
        (
            'found = crackvae.evaluate(manifest="data/manifest.parquet", model="model", out="evaluation")',
            'found.sets["internal"]',
        ),
    ),
    "score": Verb(
        "crackvae.scoring.verb",
        config.ScoreConfig,
        results.ScoreResult,
        (errors.LimitBroken, errors.FolderInUse, errors.ManifestError, errors.ArchiveError, *_INPUT),
        (
            'night = crackvae.score(images="photographs", model="model", out="scores")',
            "night.flagged, night.page",
            'rows = crackvae.read_scores(night.out, ["image", "score", "flagged"])',
        ),
    ),
    "live": Verb(
        "crackvae.streaming.verb",
        config.LiveConfig,
        results.LiveResult,
        (errors.FolderInUse, errors.StorageError, errors.ModelError),
        ('crackvae.live(source="/dev/video0", out="scores", seconds=60).flagged',),
    ),
    "change": Verb(
        "crackvae.changes.verb",
        config.ChangeConfig,
        results.ChangeResult,
        (errors.ManifestError, errors.FolderInUse, *_INPUT),
        ('changed = crackvae.change(before="scores/spring", after="scores/autumn")', "changed.new, changed.grown"),
    ),
    "compact": Verb(
        "crackvae.scoring.compaction",
        config.CompactConfig,
        results.CompactResult,
        (errors.FolderInUse, errors.StorageError),
        ('crackvae.compact(scores="scores").parts',),
    ),
    "nightly": Verb(
        "crackvae.nights.nightly",
        config.NightlyConfig,
        results.NightlyResult,
        (errors.LimitBroken, errors.FolderInUse, errors.ManifestError, errors.ArchiveError, *_INPUT),
        (
            'night = crackvae.nightly(images="s3://site/2026-*/", model="model", out="s3://site/scores")',
            "night.level",
        ),
    ),
    "report": Verb(
        "crackvae.reports.verb",
        config.ReportConfig,
        results.ReportResult,
        (errors.StorageError, errors.ModelError),
        ('crackvae.report(scores="scores", out="page.html", worst=100).page',),
    ),
    "findings": Verb(
        "crackvae.exports.verb",
        config.FindingsConfig,
        results.FindingsResult,
        (errors.StorageError,),
        ('crackvae.findings(scores="scores", out="cracks.geojson", gps_precision="100m").findings',),
    ),
    "review": Verb(
        "crackvae.reviewing.verb",
        config.ReviewConfig,
        results.ReviewResult,
        (errors.StorageError, errors.ManifestError),
        ('crackvae.review(scores="scores", import_="verdicts.csv", reviewer="anna").given',),
    ),
    "learn": Verb(
        "crackvae.training.learn",
        config.LearnConfig,
        results.LearnResult,
        (errors.ManifestError, errors.CalibrationError, errors.OutputExists, errors.FolderInUse, *_INPUT),
        ('learned = crackvae.learn(model="models/site", scores="scores", out="learned")', "learned.meaning"),
    ),
    "compare": Verb(
        "crackvae.reviewing.compare",
        config.CompareConfig,
        results.CompareResult,
        (errors.ManifestError, *_INPUT),
        ('crackvae.compare(champion="models/site", challenger="learned", scores="scores").why_not',),
    ),
    "promote": Verb(
        "crackvae.reviewing.promote",
        config.PromoteConfig,
        results.PromoteResult,
        (errors.ManifestError, *_INPUT),
        ('crackvae.promote(model="learned", registry="models/site", scores="scores").model',),
    ),
    "rollback": Verb(
        "crackvae.reviewing.promote",
        config.RollbackConfig,
        results.RollbackResult,
        (errors.StorageError, errors.ModelError),
        ('crackvae.rollback(registry="models/site", why="misses cracks on the new bridge").model',),
    ),
    "export": Verb(
        "crackvae.model.export",
        config.ExportConfig,
        results.ExportResult,
        (errors.OutputExists, errors.StorageError, errors.ModelError),
        ('crackvae.export(model="model", out="model.onnx").largest_difference',),
    ),
    "info": Verb(
        "crackvae.cli.info",
        config.InfoConfig,
        results.InfoResult,
        (errors.StorageError, errors.ModelError, errors.ManifestError),
        ('crackvae.info(path="model").summary["threshold"]',),
    ),
    "doctor": Verb(
        "crackvae.cli.doctor",
        config.DoctorConfig,
        results.DoctorResult,
        (errors.LimitBroken,),
        ("crackvae.doctor().found",),
    ),
    "demo": Verb(
        "crackvae.cli.demo",
        config.DemoConfig,
        results.DemoResult,
        (errors.StorageError, errors.ModelError, errors.ClusterError),
        ('crackvae.demo(out="demo").page',),
    ),
}


def run(name: str, settings: config.VerbConfig) -> results.Result:
    """Call the function of a verb and return its result in the verb's own type."""
    verb = VERBS[name]
    function: Callable[[config.VerbConfig], results.Result] = getattr(importlib.import_module(verb.module), name)
    try:
        return results.typed(verb.result, function(settings))
    except LimitBroken as error:
        error.outcome = results.typed(verb.result, error.outcome)
        raise


def settings_of(name: str, values: dict[str, Any]) -> config.VerbConfig:
    """The settings of a verb: the given values, over those of a preset, of a starting model or of a resumed run."""
    values = config.with_preset(values)
    values |= {key: os.fspath(value) for key, value in values.items() if isinstance(value, os.PathLike)}
    named = {key for key, value in values.items() if isinstance(value, str) and value}
    if "resume" in named:
        values = importlib.import_module("crackvae.training.checkpoints").with_run(values)
    elif name == "train" and "from_" in named:
        values = importlib.import_module("crackvae.training.starting").with_start(values)
    return VERBS[name].config(**values)


def function_of(name: str) -> Callable[..., results.Result]:
    """The public function of a verb, with the signature and the documentation that follow from its settings."""
    signature = signature_of(name)

    def call(**given: Any) -> results.Result:
        for key in given:
            if key not in signature.parameters:
                near = suggestion(key, signature.parameters)
                raise TypeError(f"{name}() got an unexpected keyword argument {key!r}{near}")
        missing = [one.name for one in fields(VERBS[name].config) if is_required(one) and one.name not in given]
        if missing and not given.get("resume"):  # a run that is resumed has its own settings
            raise TypeError(f"{name}() is missing the keyword argument {' and '.join(map(repr, missing))}")
        return run(name, settings_of(name, given))

    call.__name__ = call.__qualname__ = name
    call.__module__ = "crackvae"
    call.__doc__ = documentation_of(name)
    call.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()} | {
        "return": signature.return_annotation
    }
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def signature_of(name: str) -> inspect.Signature:
    """Keyword-only parameters: the settings of the verb, required ones first, then its own before the shared ones."""
    verb = VERBS[name]
    hints = typing.get_type_hints(verb.config, include_extras=True)
    parameters = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if is_required(one) else default_of(one),
            annotation=_parameter_type(hints[one.name]),
        )
        for one in ordered_fields(verb.config)
    ]
    return inspect.Signature(parameters, return_annotation=verb.result)


def ordered_fields(config_class: type[config.VerbConfig]) -> list[Any]:
    """Fields of a settings class in the order of documentation: required, own, inherited."""
    own = [name for one in config_class.__mro__ for name in vars(one).get("__annotations__", ())]
    return sorted(fields(config_class), key=lambda one: (not is_required(one), own.index(one.name)))


def is_required(config_field: Any) -> bool:
    """Whether a setting has no default."""
    return config_field.default is MISSING and config_field.default_factory is MISSING


def default_of(config_field: Any) -> Any:
    """Default of a setting that has one."""
    return config_field.default if config_field.default is not MISSING else config_field.default_factory()


def _parameter_type(annotation: Any) -> Any:
    """The type that a function accepts: a path also as os.PathLike, a tuple also as a list."""
    if annotation == Location:
        return str | os.PathLike[str]
    if annotation == Locations:
        return str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    if typing.get_origin(annotation) is Annotated:
        return typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is tuple:
        return Sequence[typing.get_args(annotation)[0]]  # type: ignore[misc]
    return annotation


def documentation_of(name: str) -> str:
    """Docstring of the function of a verb."""
    verb = VERBS[name]
    settings = "\n".join(_entry(one.name, one.metadata["help"]) for one in ordered_fields(verb.config))
    raises: tuple[type[CrackvaeError], ...] = (errors.ConfigError, *verb.errors)
    raised = "\n".join(_entry(one.__name__, (inspect.getdoc(one) or "").splitlines()[0]) for one in raises)
    returned = _entry(verb.result.__name__, f"with {', '.join(one.name for one in fields(verb.result))}")
    example = "\n".join(f"    >>> {line}" for line in verb.example)
    return (
        f"{inspect.getdoc(verb.config)}\n\nArgs:\n{settings}\n\nReturns:\n{returned}\n\nRaises:\n{raised}\n\n"
        f"Example:\n{example}\n"
    )


def _entry(name: str, text: str) -> str:
    """One argument, error or result in a docstring; a flag in its text becomes the argument of that name."""
    text = re.sub(r"--([a-z0-9][a-z0-9-]*)", lambda found: found[1].replace("-", "_"), text).rstrip(".")
    return textwrap.fill(f"{name}: {text}.", 110, initial_indent=" " * 4, subsequent_indent=" " * 8)
