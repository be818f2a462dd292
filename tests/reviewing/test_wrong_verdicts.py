"""A challenger that learned from wrong verdicts does not replace the model in use."""

from pathlib import Path

import pytest
from conftest import SMALL

import crackvae
from crackvae.errors import ModelError
from crackvae.images.synthetic import write_images
from crackvae.model import registry
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog
from crackvae.training import learn as learning
from crackvae.training.learn.held_out import HeldOutCracks

pytestmark = [pytest.mark.usefixtures("train_in_process", "in_process"), pytest.mark.slow]


@pytest.fixture
def site(manifest: Path, tmp_path: Path) -> Path:
    """A registry whose current model finds drawn cracks."""
    model = tmp_path / "champion"
    crackvae.train(manifest=manifest, model=model, **SMALL, tile_px=64, stride_px=48, epochs=12, quiet=True)
    crackvae.promote(model=model, registry=tmp_path / "site", who="anna")
    return tmp_path / "site"


@pytest.fixture
def night(site: Path, tmp_path: Path) -> Path:
    """The scores of new drawn images by that model."""
    write_images(tmp_path / "night", 120, 80, seed=1, side_px=64, workers=1)
    crackvae.score(images=tmp_path / "night", model=site, out=tmp_path / "scores", no_report=True, quiet=True)
    return tmp_path / "scores"


def judge(night: Path, verdict_of: dict[str, str]) -> None:
    """A verdict on every image of the night, by the folder that it lies in."""
    rows = crackvae.read_scores(night, ["image", "model", "score"]).to_pylist()
    verdicts = [
        Judgement(Subject(row["image"]), verdict_of[Path(row["image"]).parent.name], row["model"], row["score"])
        for row in rows
    ]
    VerdictLog(str(night)).append("all-verdicts-of-ben", "ben", verdicts)


def test_a_model_that_learned_from_flipped_verdicts_is_not_promoted_and_the_reason_has_the_figures(
    site: Path, night: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The verdicts are all wrong in the same way, and so consistent; an unlucky division of the images can hide that.
    monkeypatch.setattr(learning, "cross_validated", lambda *_: HeldOutCracks(80, 1.0))
    judge(night, {"crack": "sound", "non_crack": "crack"})
    model = tmp_path / "challenger"
    learned = crackvae.learn(model=site, scores=night, out=model, group_by="none", quiet=True).summary
    assert learned["held_out"]["are_found_better"] and learned["digest"] != learned["from"]
    before = registry.history(str(site))
    finds_less = r"its recall is 0.*, and 0\.\d+ is that of the current model .difference -0\.\d+, 95 % interval -0"
    flags_more = r"it flags [\d.]+ % of the sound images, and at most [\d.]+ % are promised"
    with pytest.raises(ModelError, match=f"challenger is not promoted: ({finds_less}|{flags_more})"):
        crackvae.promote(model=model, registry=site, manifest=manifest, quiet=True)
    assert registry.history(str(site)) == before and before[-1].model == learned["from"]
