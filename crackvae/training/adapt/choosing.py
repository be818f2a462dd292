"""Which model suits a site better, the starting one or the fine-tuned one, by cracks drawn on tiles of neither.

Few photographs can make a model worse, and without a label nobody would notice. Drawn cracks rank the two as real ones
did (docs/log.md, 2026-11-29).

Shape letters: T tiles, P side of a tile at the input [px].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from crackvae.console import say
from crackvae.metrics import operating_points
from crackvae.model.artifact import Model
from crackvae.model.inference import score_tiles
from crackvae.training.adapt.calibrating import site_scores
from crackvae.training.adapt.site import MIN_GROUPS
from crackvae.training.adapt.threshold import ThresholdRule
from crackvae.training.loop import VAL_BATCH
from crackvae.training.validation import some_tiles, with_and_without_cracks

# Tiles to compare on: each model scores them, and some of them with a crack, in half a minute of processor time.
MAX_TILES = 2_000
# The fine-tuned model is kept if it finds more in this share of random resamples of the groups of images, of which at
# least MIN_GROUPS compare the two: with one or two, chance decides between two equal models. A few
# photographs cannot tell which model is better, and the fine-tuned one was worse on labelled cracks (docs/log.md).
MIN_BETTER, RESAMPLES = 0.95, 200


@dataclass(frozen=True)
class Choice:
    """Recall of both models on drawn cracks, at the false-alarm rate that is asked for.

    Attributes:
        starting, fine_tuned: shares of the drawn cracks that are found.
        better: share of resamples of the groups in which the fine-tuned model finds more than the starting one.
        rate: share of the sound tiles that are flagged, the same for both.
        groups: number of groups with a drawn crack.
    """

    starting: float
    fine_tuned: float
    better: float
    rate: float
    groups: int

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the fine-tuned model is the better one beyond chance."""
        return self.groups >= MIN_GROUPS and self.better >= MIN_BETTER

    @property
    def meaning(self) -> str:
        """Which model was kept, and why, in a sentence."""
        if self.groups < MIN_GROUPS:
            return f"{not_compared(self.groups)} With --quick all images would set the threshold."
        kept, other = ("fine-tuned", "starting") if self.is_fine_tuned else ("starting", "fine-tuned")
        found = {"fine-tuned": self.fine_tuned, "starting": self.starting}
        return (
            f"Kept the {kept} model: on tiles of this site that neither was trained on, it finds {found[kept]:.1%} of "
            f"the cracks drawn there, and the {other} model {found[other]:.1%}, both with {self.rate:g} of the sound "
            f"tiles flagged; the fine-tuned model finds more in {self.better:.0%} of random resamples of the images "
            f"({MIN_BETTER:.0%} are needed)."
        )

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kept": "fine-tuned" if self.is_fine_tuned else "starting",
            "recall_on_synthetic_cracks": {"starting": self.starting, "fine-tuned": self.fine_tuned},
            "fine_tuned_better": self.better,
            "false_alarm_rate": self.rate,
            "groups": self.groups,
        }


def not_compared(groups: int) -> str:
    """Why the starting model is kept where only so many groups of images could compare it, in a sentence."""
    return (
        f"Kept the starting model: comparing it with a fine-tuned one takes {MIN_GROUPS} groups of images, and this "
        f"site has {groups} for that, so chance would decide. For fine-tuning add photographs, or give a finer "
        "--group-by."
    )


def choose(
    start: Model, tuned: Model, tiles_TPP: np.ndarray, groups_T: np.ndarray, rule: ThresholdRule, *, quiet: bool
) -> Choice:
    """Compare two models on the tiles of a site that both rank as the least crack-like.

    Args:
        tiles_TPP: uint8 (T, P, P), of photographs that neither was trained on; a few may show a crack.
        groups_T: the photograph or structure of each tile: the unit of resampling.
    """
    some = some_tiles(len(tiles_TPP), MAX_TILES)
    models = {"starting": start, "fine-tuned": tuned}
    scores = [
        site_scores(model, tiles_TPP[some], f"compare {name}", quiet=quiet)[:, 0] for name, model in models.items()
    ]
    ranks_T = sum(np.argsort(np.argsort(scores_T, kind="stable")) for scores_T in scores)
    n_sound = max(1, round(len(some) * (1 - rule.max_cracked)))
    sound = np.sort(np.argsort(ranks_T, kind="stable")[:n_sound])
    drawn_on = sound[some_tiles(len(sound))]
    cracked_TPP, _ = with_and_without_cracks(tiles_TPP[some[drawn_on]], start.spec.input_px)
    cracks = [score_tiles(model, cracked_TPP, VAL_BATCH)[:, 0] for model in models.values()]
    both = [np.concatenate([scores_T[sound], cracks_T]) for scores_T, cracks_T in zip(scores, cracks, strict=True)]
    groups_N = np.concatenate([groups_T[some[sound]], groups_T[some[drawn_on]]])
    choice = compared(both, np.arange(len(groups_N)) >= len(sound), groups_N, rule.max_false_alarm)
    say(choice.meaning, quiet=quiet)
    return choice


def compared(scores: list[np.ndarray], is_crack_N: np.ndarray, groups_N: np.ndarray, rate: float) -> Choice:
    """Recall of the starting and of the fine-tuned model at the rate, for all groups and for resamples of them.

    Args:
        scores: of the starting and of the fine-tuned model, float (N,) each.
    """
    rng, (_, group_N) = np.random.default_rng(0), np.unique(groups_N, return_inverse=True)
    n_groups = group_N.max() + 1

    def recalls(weights_N: np.ndarray) -> tuple[float, float]:
        points = (operating_points(is_crack_N, scores_N, weights_N) for scores_N in scores)
        starting, fine_tuned = (
            float(found_K[np.searchsorted(alarms_K, rate + 1e-12, side="right") - 1]) for alarms_K, found_K in points
        )
        return starting, fine_tuned

    draws = (rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups))[group_N] for _ in range(RESAMPLES))
    pairs = [recalls(weights_N) for weights_N in draws if weights_N @ is_crack_N > 0]
    better = float(np.mean([fine_tuned > starting for starting, fine_tuned in pairs]))
    return Choice(*recalls(np.ones(len(groups_N))), better, rate, len(np.unique(group_N[is_crack_N])))
