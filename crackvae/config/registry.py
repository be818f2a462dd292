"""Settings of the verbs that decide which model is used: compare, promote and rollback."""

import getpass
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from crackvae.config.common import ScoringConfig, VerbConfig, new_model_problem, without_effect
from crackvae.config.settings import Location, Locations, setting


def user_name() -> str:
    """Name of the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class JudgedConfig(ScoringConfig):
    """Which images two models are compared on."""

    manifest: Location = setting("manifest.parquet with labelled images", "")
    split: Literal["val", "test"] = setting("internal split of the manifest", "test")
    scores: Locations = setting("folders of scores with a log of verdicts: the images that reviewers have judged", ())
    resamples: int = setting("bootstrap resamples of the groups, for 95 % intervals", 1000, ge=100)
    seed: int = setting("random seed of the bootstrap", 0, ge=0)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if not self.manifest:
            yield from without_effect(self, ("split",), "without --manifest")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(JudgedConfig):
    """Score the same labelled or judged images with two models, and measure the difference."""

    champion: Location = setting("model directory, or registry: the model in use")
    challenger: Location = setting("model directory, or registry: the model that may replace it")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if bool(self.manifest) == bool(self.scores):
            yield "give either --manifest or --scores: images with labels, or with verdicts."


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(JudgedConfig):
    """Make a model the current one of a registry, if it is not worse than the current one on labelled or judged images.

    A registry is a folder whose path may be given wherever a model directory is.
    """

    model: Location = setting("model directory to promote")
    registry: Location = setting("folder of the registry; it is created for the first model")
    why: str = setting("reason in words; with it a model is promoted even if it is worse or was not compared", "")
    who: str = setting("name of the person who decides; default: the user", "")

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        yield from new_model_problem(self.registry, "registry")
        if self.manifest and self.scores:
            yield "give either --manifest or --scores: images with labels, or with verdicts."


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(VerbConfig):
    """Make the model of a registry current that the current one replaced."""

    registry: Location = setting("folder of the registry")
    why: str = setting("reason in words")
    who: str = setting("name of the person who decides; default: the user", "")
