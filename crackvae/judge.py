"""The model of scores that were written earlier, found again so that it can explain them."""

from dataclasses import dataclass, replace

from crackvae.calibration import Calibration, load_calibration
from crackvae.errors import ModelError
from crackvae.model import Model, load_model


@dataclass(frozen=True)
class Judge:
    """The model of a table of scores, where it can be had.

    Attributes:
        model: None where it cannot.
        why_not: "" or why.
        calibration: with the threshold of the scores, or None with the model.
    """

    model: Model | None
    why_not: str
    calibration: Calibration | None


def find_judge(named: str, recorded: str, digest: str, threshold: float) -> Judge:
    """The model that gave the scores.

    Args:
        named: model directory that the user gave, or "".
        recorded: model directory that the summary names, or "".
        digest, threshold: of the scores.

    Raises:
        ModelError: --model names another model than that of the scores.
    """
    place = named or recorded
    if not place:
        return Judge(None, "these scores do not say which model directory they come from: give --model", None)
    try:
        model = load_model(place)
    except ModelError as error:
        if named:
            raise
        return Judge(None, str(error), None)
    if model.digest != digest:
        if named:
            raise ModelError(
                f"{place} is not the model of these scores (digest {model.digest[:12]}, scores {digest[:12]}): "
                "name the one that they were made with."
            )
        return Judge(None, f"{place} holds another model by now (digest {model.digest[:12]})", None)
    return Judge(model, "", replace(load_calibration(place, digest), threshold=threshold))
