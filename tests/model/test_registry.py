"""The registry of models: what is current, how it got there, and what a kill between two writes leaves."""

from pathlib import Path

import pytest
from conftest import small_spec, write_model

from crackvae.config import CalibrateConfig
from crackvae.errors import ModelError, StorageError
from crackvae.model import registry
from crackvae.model.artifact import load_model
from crackvae.model.inference import load_scorer
from crackvae.scoring.calibrate import calibrate
from crackvae.storage import fileio


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Three models with different weights."""
    return [str(write_model(tmp_path / f"model-{seed}", small_spec(seed=seed))) for seed in range(3)]


@pytest.fixture
def site(tmp_path: Path) -> str:
    return str(tmp_path / "site")


def promote(site: str, model: str) -> str:
    return registry.promote_model(site, model, "anna", "it finds more", {"recall": 0.9}).model


def test_a_registry_stands_for_its_current_version(site: str, models: list[str]) -> None:
    assert registry.model_folder(models[0]) == models[0]
    digests = [promote(site, model) for model in models[:2]]
    assert digests == [load_model(model).digest for model in models[:2]]
    assert load_model(registry.model_folder(site)).digest == digests[1]
    assert load_model(registry.model_folder(site, digests[0])).digest == digests[0], "the model of earlier scores"
    changes = registry.history(site)
    assert [(one.model, one.before, one.who, one.figures) for one in changes] == [
        (digests[0], "", "anna", {"recall": 0.9}),
        (digests[1], digests[0], "anna", {"recall": 0.9}),
    ]
    with pytest.raises(ModelError, match="already the current model"):
        promote(site, models[1])


def test_the_same_weights_with_another_threshold_are_another_version(
    site: str, models: list[str], tmp_path: Path
) -> None:
    lower = str(write_model(tmp_path / "lower", small_spec(seed=0), threshold=0.01))
    digest = promote(site, models[0])
    assert promote(site, models[1]) != digest and promote(site, lower) == digest
    assert load_scorer(site).calibration.threshold == pytest.approx(0.01)
    assert load_scorer(registry.model_folder(site, digest)).calibration.threshold == pytest.approx(0.01), "the latest"
    with pytest.raises(ModelError, match="already the current model"):
        promote(site, lower)
    promote(site, models[0])
    assert load_scorer(site).calibration.threshold == pytest.approx(0.02)
    registry.roll_back(site, "ben", "too many alarms")
    assert load_scorer(site).calibration.threshold == pytest.approx(0.01)
    with pytest.raises(ModelError, match="is a registry, which keeps what was promoted: give --out"):
        calibrate(CalibrateConfig(model=site, images=str(tmp_path), quiet=True))


def test_a_registry_of_an_earlier_version_goes_on(site: str, models: list[str]) -> None:
    """Its folders are named by the digest, and its changes have no version."""
    digests = [promote(site, model) for model in models[:2]]
    changes = registry.history(site)
    for one in changes:
        folder = Path(site) / "versions" / one.version
        folder.rename(folder.with_name(one.model))
    lines = [one.model_dump_json(exclude={"version", "before_version"}) for one in changes]
    (Path(site) / "history.jsonl").write_text("\n".join(lines) + "\n")
    (Path(site) / "current.json").write_text(lines[-1])
    assert load_scorer(site).model.digest == digests[1]
    assert load_model(registry.model_folder(site, digests[0])).digest == digests[0]
    assert registry.roll_back(site, "ben", "too many alarms").model == digests[0]
    promote(site, models[2])
    assert registry.roll_back(site, "ben", "worse").model == digests[0]


def test_rollbacks_go_back_one_promotion_each(site: str, models: list[str]) -> None:
    digests = [promote(site, model) for model in models]
    assert [registry.roll_back(site, "ben", "too many alarms").model for _ in range(2)] == digests[1::-1]
    with pytest.raises(ModelError, match="had no model before"):
        registry.roll_back(site, "ben", "again")
    assert promote(site, models[2]) == digests[2] and registry.current(site).before == digests[0]
    assert [one.action for one in registry.history(site)] == ["promote"] * 3 + ["rollback"] * 2 + ["promote"]


def test_rollbacks_end_though_a_model_was_promoted_twice(site: str, models: list[str]) -> None:
    first, second, _ = [promote(site, models[number]) for number in (0, 1, 0)]
    assert [registry.roll_back(site, "ben", "too many alarms").model for _ in range(2)] == [second, first]
    with pytest.raises(ModelError, match="nothing to go back to") as refused:
        registry.roll_back(site, "ben", "again")
    assert "\n" not in str(refused.value) and registry.current(site).model == first
    promote(site, models[2])
    assert registry.roll_back(site, "ben", "worse").model == first


def test_a_rollback_needs_no_more_of_the_history_than_the_current_change(site: str, models: list[str]) -> None:
    first, _ = [promote(site, model) for model in models[:2]]
    (Path(site) / "history.jsonl").unlink()
    assert registry.roll_back(site, "ben", "too many alarms").model == first


def test_a_history_whose_rollbacks_went_to_and_fro_comes_to_an_end(site: str, models: list[str]) -> None:
    first, second, _ = [promote(site, models[number]) for number in (0, 1, 0)]
    changes = registry.history(site)
    versions = {one.model: one.version for one in changes}
    for model, before in ((second, first), (first, second), (second, first)):
        update = {"action": "rollback", "model": model, "before": before, "version": versions[model]}
        changes.append(changes[-1].model_copy(update=update))
    (Path(site) / "history.jsonl").write_text("".join(f"{one.model_dump_json()}\n" for one in changes))
    (Path(site) / "current.json").write_text(changes[-1].model_dump_json())
    with pytest.raises(ModelError, match="nothing to go back to"):
        registry.roll_back(site, "ben", "again")
    promote(site, models[2])
    assert registry.roll_back(site, "ben", "worse").model == second


@pytest.mark.parametrize("writes", range(6))
def test_killed_between_any_two_writes_the_current_model_is_one_of_the_two_and_the_history_is_complete(
    site: str, models: list[str], writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(site, models[0])
    left = [writes]

    class Killed(BaseException):
        pass

    def dying(write):
        def until_killed(*arguments):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return write(*arguments)

        return until_killed

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_folder"):
            patch.setattr(fileio, name, dying(getattr(fileio, name)))
        try:
            promote(site, models[1])
        except Killed:
            assert writes < 4
    second = load_model(models[1]).digest
    now = load_model(registry.model_folder(site)).digest
    assert now in (first, second)
    assert [one.model for one in registry.history(site)] == ([first] if now == first else [first, second])
    third = promote(site, models[2])
    assert [one.model for one in registry.history(site)][-2:] == [now, third]


def test_damaged_files_are_named(site: str, models: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no registry of models"):
        registry.roll_back(str(tmp_path), "ben", "why")
    promote(site, models[0])
    (Path(site) / "history.jsonl").write_text("{}\n")
    with pytest.raises(StorageError, match=r"history\.jsonl is damaged"):
        registry.history(site)
    (Path(site) / "current.json").write_text("{")
    for needs_it in (registry.model_folder, lambda site: promote(site, models[1])):
        with pytest.raises(StorageError, match=r"current\.json is damaged.*delete it and promote a model again"):
            needs_it(site)
    for damaged in ("current.json", "history.jsonl"):
        (Path(site) / damaged).unlink()
    assert promote(site, models[1]) == load_model(models[1]).digest == registry.current(site).model
