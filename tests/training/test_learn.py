"""A challenger from the verdicts of reviewers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_spec, write_model
from PIL import Image

from crackvae.config import LearnConfig, ScoreConfig
from crackvae.errors import CalibrationError, ManifestError, ModelError, OutputExists, StorageError
from crackvae.model.artifact import load_model
from crackvae.model.heads import EVIDENCE_OFFSET
from crackvae.model.inference import load_scorer, score_tiles
from crackvae.model.network import Network
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog, logged_verdicts
from crackvae.training import learn as learning
from crackvae.training.learn import learn
from crackvae.training.learn.held_out import HeldOutCracks, cross_validated
from crackvae.training.learn.judged import read_nights, worst_tiles
from crackvae.training.learn.last_layer import Cells, cells_of, fitted_change

pytestmark = pytest.mark.usefixtures("train_in_process", "in_process")


@pytest.fixture
def scores(drawn: Path, model_dir: Path, tmp_path: Path) -> Path:
    """Scores of 200 sound and 30 cracked drawn images, without a verdict."""
    pictures = [*sorted((drawn / "non_crack").iterdir())[:200], *sorted((drawn / "crack").iterdir())[:30]]
    images = tuple(map(str, pictures))
    score(ScoreConfig(images=images, model=str(model_dir), out=str(tmp_path / "scores"), no_report=True, quiet=True))
    return tmp_path / "scores"


def judge(scores: Path, n_sound: int, n_cracked: int) -> None:
    """Right verdicts on the most suspicious images, in the words of a reviewer."""
    rows = tables.read_scores(str(scores), ["image", "model", "score"]).to_pylist()
    rows.sort(key=lambda row: -row["score"])
    judgements: list[Judgement] = []
    for folder, verdict, n in (("crack", "crack", n_cracked), ("non_crack", "joint", n_sound)):
        of_kind = [row for row in rows if Path(row["image"]).parent.name == folder][:n]
        judgements += [Judgement(Subject(row["image"]), verdict, row["model"], row["score"]) for row in of_kind]
    VerdictLog(str(scores)).append("verdicts-of-anna", "anna", judgements)


def config(scores: Path, model_dir: Path, out: Path, **changes: object) -> LearnConfig:
    values = {"scores": (str(scores),), "model": str(model_dir), "out": str(out), "group_by": "none", "quiet": True}
    return LearnConfig(**values | changes)


@pytest.fixture
def surely_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the learned weights had been shown to be better."""
    monkeypatch.setattr(learning, "cross_validated", lambda *_: HeldOutCracks(20, 1.0))


@pytest.mark.slow
@pytest.mark.usefixtures("surely_better")
def test_a_challenger_differs_in_its_last_layer_keeps_its_promise_and_says_what_it_learned_from(
    scores: Path, model_dir: Path, tmp_path: Path
) -> None:
    judge(scores, 20, 20)
    result = learn(config(scores, model_dir, tmp_path / "learned"))
    base, new = load_model(str(model_dir)), load_scorer(str(tmp_path / "learned"))
    before, after = base.network.state_dict(), new.model.network.state_dict()
    changed = {name for name, old in before.items() if not torch.equal(old, after[name])}
    assert changed == {"segmenter.logits.weight", "segmenter.logits.bias"}
    assert new.model.digest == result.summary["digest"]
    written = json.loads((tmp_path / "learned" / "training.json").read_text())
    verdicts = written["verdicts"]
    assert sum(one["crack"] for one in verdicts.values()) == sum(one["sound"] for one in verdicts.values()) == 20
    assert min(verdicts["train"].values()) > 0 and written["from"] == base.digest
    assert result.summary["false_alarms"]["expected"] == load_scorer(str(model_dir)).calibration.rate
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned", "scores"]


@pytest.mark.slow
@pytest.mark.usefixtures("surely_better")
def test_the_same_verdicts_make_the_same_challenger_and_others_another(
    scores: Path, model_dir: Path, tmp_path: Path
) -> None:
    judge(scores, 10, 10)
    digests = [learn(config(scores, model_dir, tmp_path / name)).summary["digest"] for name in ("one", "two")]
    assert digests[0] == digests[1]
    judge_one_more = tables.read_scores(str(scores), ["image"])["image"][0].as_py()
    VerdictLog(str(scores)).append("one-more-verdict", "ben", [Judgement(Subject(judge_one_more), "crack")])
    assert learn(config(scores, model_dir, tmp_path / "three")).summary["digest"] != digests[0]


@pytest.mark.slow
def test_no_image_that_was_learned_from_sets_the_threshold(
    scores: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(scores, 30, 15)
    seen: dict[str, set[str]] = {}
    for name in ("decoded_tiles", "worst_tiles"):
        real = getattr(learning, name)

        def noted(images: pa.Table, *rest: object, real: Any = real, name: str = name, **named: object) -> object:
            seen[name] = set(images["image"].to_pylist())
            return real(images, *rest, **named)

        monkeypatch.setattr(learning, name, noted)
    learn(config(scores, model_dir, tmp_path / "learned"))
    threshold_from, learned_from = seen["decoded_tiles"], seen["worst_tiles"]
    assert threshold_from and learned_from and not threshold_from & learned_from
    verdicts = logged_verdicts(str(scores))
    assert learned_from <= set(verdicts) and "crack" not in {verdicts.get(image) for image in threshold_from}


@pytest.mark.slow
@pytest.mark.parametrize(("n_sound", "n_cracked"), [(12, 8), (20, 0), (0, 20)])
def test_few_verdicts_or_those_of_one_kind_leave_the_weights_and_the_digest_as_they_are(
    scores: Path, model_dir: Path, tmp_path: Path, n_sound: int, n_cracked: int
) -> None:
    judge(scores, n_sound, n_cracked)
    result = learn(config(scores, model_dir, tmp_path / "learned"))
    assert result.summary["held_out"]["share_better"] is None
    before, after = (load_model(str(folder)) for folder in (model_dir, tmp_path / "learned"))
    weights = after.network.state_dict()
    assert all(torch.equal(weights[name], old) for name, old in before.network.state_dict().items())
    # Images that these weights have scored need not be scored again when the new threshold is promoted.
    assert after.digest == before.digest == result.summary["digest"]


def drawn_cells(rng: np.random.Generator, is_crack: np.ndarray, shown: float) -> Cells:
    """Tiles of 16 cells of 4 pixels and 3 features, whose logits tell cracks a little from others.

    Args:
        shown: how much more of the first feature a crack has; the others tell nothing.
    """
    strength = torch.from_numpy(rng.normal(0.5 * is_crack, 1)).float()
    features = torch.from_numpy(rng.exponential(1, (len(is_crack), 3, 16))).float()
    features[:, 0] += shown * torch.from_numpy(is_crack)[:, None]
    logits = strength[:, None, None] + torch.from_numpy(rng.normal(0, 0.1, (len(is_crack), 4, 16))).float()
    return Cells(logits, features, torch.zeros(len(is_crack)), 6)


@pytest.mark.parametrize(("shown", "is_better"), [(3.0, True), (0.0, False)])
def test_weights_are_learned_only_where_they_rank_cracks_of_other_groups_higher(shown: float, is_better: bool) -> None:
    rng = np.random.default_rng(0)
    is_crack, groups = np.arange(80) % 2 == 0, np.arange(80) // 8
    judged, others = drawn_cells(rng, is_crack, shown), drawn_cells(rng, np.zeros(200, bool), shown)
    found = cross_validated(judged, is_crack, groups, others, seed=0)
    assert (found.cracks, found.are_found_better) == (40, is_better)
    few = np.arange(80) < 18
    assert cross_validated(judged[few], is_crack[few], groups[few], others, seed=0).share_better is None
    # 40 cracks of four places tell hardly more than four cracks do.
    few_groups = np.where(is_crack, groups % 4, groups)
    assert cross_validated(judged, is_crack, few_groups, others, seed=0).share_better is None


def test_a_change_of_the_layer_scores_as_the_changed_model_does(model_dir: Path) -> None:
    model = load_model(str(model_dir))
    tiles = np.random.default_rng(0).integers(0, 255, (24, 32, 32), np.uint8)
    cells = cells_of(model, tiles)
    own = score_tiles(model, tiles, 8)[:, 0]
    assert np.exp(cells.log_scores()) == pytest.approx(own + EVIDENCE_OFFSET, rel=1e-4)
    change = fitted_change(cells, np.arange(24) < 12)
    changed = replace(model, network=Network(model.spec).eval())
    changed.network.load_state_dict(change.applied_to(model))
    exact, expected = score_tiles(changed, tiles, 8)[:, 0], np.exp(cells.log_scores(change))
    assert np.corrcoef(exact, expected)[0, 1] > 0.99 and np.abs(exact - own).max() > 1e-4


def test_the_worst_tile_of_a_photograph_is_what_is_learned_from(tmp_path: Path) -> None:
    spec = small_spec(tile_px=32, stride_px=24)
    pixels = np.random.default_rng(0).integers(100, 160, (104, 200), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    row = {
        "image": str(tmp_path / "photograph.png"),
        "group": "",
        "bytes": 1,
        "sha256": "",
        "width": 200,
        "height": 104,
    }
    images = pa.Table.from_pylist([row | {"worst_x": 48, "worst_y": 24}])
    (tile,), of_image = worst_tiles(images, "judged", spec, quiet=True)
    assert of_image["image"].to_pylist() == [row["image"]]
    assert (tile == pixels[24:56, 48:80]).all()


def test_what_cannot_be_learned_from_is_refused_before_anything_is_trained(
    scores: Path, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="nosuch holds no scores: name the folder that crackvae score wrote"):
        learn(config(tmp_path / "nosuch", model_dir, tmp_path / "learned"))
    with pytest.raises(ManifestError, match=r"no verdict on the images of .*scores: judge some with crackvae review"):
        learn(config(scores, model_dir, tmp_path / "learned"))
    judge(scores, 2, 0)
    with pytest.raises(CalibrationError, match=r"belong to [1-4] groups, .* give --group-by none"):
        learn(config(scores, model_dir, tmp_path / "learned", group_by="table"))
    plain = write_model(tmp_path / "plain", small_spec(segmenter=(), recipe="plain", head="mse"))
    with pytest.raises(ModelError, match="plain does not score by a segmenter, which is what learns"):
        learn(config(scores, plain, tmp_path / "learned"))
    with pytest.raises(CalibrationError, match=r"tiles would set the threshold, and 10[0-9][0-9] are needed"):
        learn(config(scores, model_dir, tmp_path / "learned", max_false_alarm=0.001))
    nervous = write_model(tmp_path / "nervous", small_spec(), threshold=0.015)
    with pytest.raises(ModelError, match=r"nervous flags 63 % .* than 50 % can be kept: give --max-false-alarm, such"):
        learn(config(scores, nervous, tmp_path / "learned"))
    with pytest.raises(OutputExists):
        learn(config(scores, model_dir, scores))
    assert not (tmp_path / "learned").exists()


def test_a_night_that_nobody_judged_withdraws_no_verdict(
    scores: Path, drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    judge(scores, 10, 5)
    images = tuple(map(str, sorted((drawn / "crack").iterdir())[:30]))
    later = tmp_path / "later"
    score(ScoreConfig(images=images, model=str(model_dir), out=str(later), no_report=True, quiet=True))
    spec, counted = load_model(str(model_dir)).spec, []
    for folders in ((scores, later), (later, scores)):
        nights = read_nights(tuple(map(str, folders)), spec, "none", 0)
        counted.append(sum(one["crack"] for one in nights.counts().values()))
        assert nights.table.num_rows == 230
    assert counted == [5, 5]
