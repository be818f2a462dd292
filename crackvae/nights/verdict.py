"""The verdict on one night, as JSON values. No Ray."""

from collections.abc import Sequence
from typing import Any

from crackvae.model.calibration import Calibration
from crackvae.monitoring.comparisons import Limits
from crackvae.monitoring.drift import ALL, Drift, compare
from crackvae.monitoring.histograms import NightHistograms

# Groups named in the summary; a night of a thousand bridges would bury the worst of them.
N_GROUPS = 20
# From what was not compared to the worst: no image, too few or not all of them, and the levels of drift.
LEVELS = ("none", "few", "ok", "watch", "alarm")
NOTHING: dict[str, Any] = {"level": "none", "where": ALL, "causes": [], "groups": [], "too_few": 0, "findings": []}


def severity(level: str) -> int:
    """0 for ok, 1 for watch, 2 for alarm; -1 for too few images to compare and -2 for none."""
    return LEVELS.index(level) - LEVELS.index("ok")


def verdict_on(
    night: NightHistograms | None,
    history: Sequence[NightHistograms],
    reference: NightHistograms,
    calibration: Calibration,
    limits: Limits,
    not_compared: int = 0,
) -> dict[str, Any]:
    """The level of a night, where it is worst, the likely causes there, and the comparisons behind it.

    Args:
        night: None if it has no images that can be compared.
        history: ordinary nights before it.
        not_compared: its images that were counted for another calibration; with any of them it is not `ok`,
            and with them alone `few`.
    """
    if night is None:
        return NOTHING | {"level": "few" if not_compared else "none"}
    drifts = compare(night, reference, calibration, limits, history)
    order = {name: (-severity(one.level), -one.images) for name, one in drifts.items() if name != ALL}
    groups = sorted(order, key=order.__getitem__)
    worst = max([ALL, *groups], key=lambda name: severity(drifts[name].level))
    shown = [ALL, *[name for name in groups if severity(drifts[name].level) > 0][:N_GROUPS]]
    return {
        "level": "few" if not_compared and drifts[worst].level == "ok" else drifts[worst].level,
        "where": worst,
        "causes": list(drifts[worst].causes),
        "groups": [_group(name, drifts[name]) for name in shown],
        "too_few": sum(one.level == "few" for one in drifts.values()),
        "findings": [
            {"group": name, **{key: _json_value(value) for key, value in vars(comparison).items()}}
            for name in shown
            for comparison in drifts[name].comparisons
        ],
    }


def _group(name: str, drift: Drift) -> dict[str, Any]:
    return {
        "group": name,
        "level": drift.level,
        "causes": list(drift.causes),
        "images": drift.images,
        "own_reference": drift.own_reference,
    }


def _json_value(value: float | str) -> float | str | None:
    """JSON has no NaN; a value that does not apply is null."""
    return value if isinstance(value, str) else None if value != value else round(float(value), 6)
