"""Which model suits a site better, the starting one or the fine-tuned one, by cracks drawn on tiles of neither.

Few photographs can make a model worse, and without a label nobody would notice. Drawn cracks rank the two as real ones
did (docs/log.md, 2026-11-29).

Shape letters: T tiles, P side of a tile at the input [px].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from crackvae.console import say
from crackvae.model.artifact import Model
from crackvae.training.adapt.calibrating import site_scores
from crackvae.training.adapt.threshold import ThresholdRule
from crackvae.training.validation import validate_on_synthetic_cracks

# Tiles to compare on: each model scores them, and some of them with a crack, in half a minute of processor time.
MAX_TILES = 2_000


@dataclass(frozen=True)
class Choice:
    """Recall of both models on drawn cracks, at the false-alarm rate that is asked for.

    Attributes:
        starting, fine_tuned: shares of the drawn cracks that are found.
        rate: share of the sound tiles that are flagged, the same for both.
    """

    starting: float
    fine_tuned: float
    rate: float

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the fine-tuned model is the better one; of two that are equal the starting one is kept."""
        return self.fine_tuned > self.starting

    @property
    def meaning(self) -> str:
        """Which model was kept, and why, in a sentence."""
        kept, other = ("fine-tuned", "starting") if self.is_fine_tuned else ("starting", "fine-tuned")
        high, low = sorted((self.starting, self.fine_tuned), reverse=True)
        return (
            f"Kept the {kept} model: on tiles of this site that neither was trained on, it finds {high:.1%} of the "
            f"cracks drawn there, and the {other} model {low:.1%}, both with {self.rate:g} of the sound tiles flagged."
        )

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kept": "fine-tuned" if self.is_fine_tuned else "starting",
            "recall_on_synthetic_cracks": {"starting": self.starting, "fine-tuned": self.fine_tuned},
            "false_alarm_rate": self.rate,
        }


def choose(start: Model, tuned: Model, tiles_TPP: np.ndarray, rule: ThresholdRule, *, quiet: bool) -> Choice:
    """Compare two models on the tiles of a site that both rank as the least crack-like.

    Args:
        tiles_TPP: uint8 (T, P, P), of photographs that neither was trained on; a few may show a crack.
    """
    some_TPP = tiles_TPP[np.linspace(0, len(tiles_TPP) - 1, min(MAX_TILES, len(tiles_TPP))).astype(int)]
    models = {"starting": start, "fine-tuned": tuned}
    scores = {
        name: site_scores(model, some_TPP, f"compare {name}", quiet=quiet)[:, 0] for name, model in models.items()
    }
    ranks_T = sum(np.argsort(np.argsort(scores_T, kind="stable")) for scores_T in scores.values())
    n_sound = max(1, round(len(some_TPP) * (1 - rule.max_cracked)))
    sound = np.sort(np.argsort(ranks_T, kind="stable")[:n_sound])

    def recall(name: str) -> float:
        threshold = float(np.quantile(scores[name][sound], 1 - rule.max_false_alarm, method="higher"))
        return validate_on_synthetic_cracks(models[name], some_TPP[sound], threshold).recall

    choice = Choice(recall("starting"), recall("fine-tuned"), rule.max_false_alarm)
    say(choice.meaning, quiet=quiet)
    return choice
