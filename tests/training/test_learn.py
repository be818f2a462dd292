"""A challenger from the verdicts of reviewers."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import small_spec, write_model
from PIL import Image

from crackvae.config import LearnConfig, ScoreConfig
from crackvae.errors import CalibrationError, ManifestError, ModelError, OutputExists
from crackvae.model.artifact import load_model
from crackvae.model.inference import load_scorer
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog, logged_verdicts
from crackvae.training import learn as learning
from crackvae.training.learn import learn
from crackvae.training.learn.held_out import MIN_CRACKS, HeldOutCracks, compared
from crackvae.training.learn.judged import worst_tiles

APART = "judged cracks that were kept apart"

pytestmark = pytest.mark.usefixtures("train_in_process", "in_process")


@pytest.fixture
def scores(drawn: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scores of 200 sound and 30 cracked drawn images, without a verdict; a training on them takes seconds."""
    for name, value in (("TRAINED_TILES", 256), ("DRAWINGS", 40), ("MIN_CRACKS", 1)):
        monkeypatch.setattr(learning, name, value)
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


@pytest.mark.slow
def test_a_challenger_moves_a_little_from_its_model_keeps_its_promise_and_says_what_it_learned_from(
    scores: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(scores, 20, 20)
    monkeypatch.setattr(learning, "compared", lambda *_: HeldOutCracks(20, 1.0))
    result = learn(config(scores, model_dir, tmp_path / "learned"))
    base, new = load_model(str(model_dir)), load_scorer(str(tmp_path / "learned"))
    moved = [
        (new.model.network.state_dict()[name] - old).abs().max() for name, old in base.network.state_dict().items()
    ]
    assert 0 < max(moved) < 0.1 and new.model.digest == result.summary["digest"]
    written = json.loads((tmp_path / "learned" / "training.json").read_text())
    verdicts = written["verdicts"]
    assert sum(one["crack"] for one in verdicts.values()) == sum(one["sound"] for one in verdicts.values()) == 20
    assert min(verdicts["train"].values()) > 0 and written["from"] == base.digest
    rate = load_scorer(str(model_dir)).calibration.rate
    assert result.summary["false_alarms"]["expected"] == rate
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned", "scores"]


@pytest.mark.slow
def test_the_same_verdicts_make_the_same_challenger_and_others_another(
    scores: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(scores, 10, 0)
    monkeypatch.setattr(learning, "compared", lambda *_: HeldOutCracks(20, 1.0))
    digests = [learn(config(scores, model_dir, tmp_path / name)).summary["digest"] for name in ("one", "two")]
    assert digests[0] == digests[1]
    judge_one_more = tables.read_scores(str(scores), ["image"])["image"][0].as_py()
    VerdictLog(str(scores)).append("one-more-verdict", "ben", [Judgement(Subject(judge_one_more), "crack")])
    assert learn(config(scores, model_dir, tmp_path / "three")).summary["digest"] != digests[0]


@pytest.mark.slow
def test_no_image_that_was_trained_on_sets_the_threshold(
    scores: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(scores, 30, 15)
    decoded: dict[str, set[str]] = {}

    def noted(images: pa.Table, split: str, *rest: object, **named: object) -> object:
        decoded.setdefault(split, set()).update(images["image"].to_pylist())
        return real(images, split, *rest, **named)

    real = learning.decoded_tiles
    monkeypatch.setattr(learning, "decoded_tiles", noted)
    monkeypatch.setattr(learning, "worst_tiles", lambda images, what, *rest, **named: _noted(images, what, rest, named))

    def _noted(images: pa.Table, what: str, rest: tuple[object, ...], named: dict[str, object]) -> np.ndarray:
        decoded.setdefault(what, set()).update(images["image"].to_pylist())
        return worst_tiles(images, what, *rest, **named)  # type: ignore[arg-type]

    learn(config(scores, model_dir, tmp_path / "learned"))
    assert set(decoded) == {"judged sound", "judged cracks", APART, "train", "val", "calibration"}
    for name in set(decoded) - {"calibration"}:
        assert decoded[name] and not decoded[name] & decoded["calibration"]
    assert not decoded[APART] & (decoded["judged cracks"] | decoded["train"])
    verdicts = logged_verdicts(str(scores))
    assert "crack" not in {verdicts.get(image) for image in decoded["calibration"]}


@pytest.mark.slow
def test_few_verdicts_train_nothing_and_leave_the_weights_as_they_are(
    scores: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(scores, 10, 10)
    monkeypatch.setattr(learning, "MIN_CRACKS", MIN_CRACKS)
    monkeypatch.setattr(learning, "fit", None)
    result = learn(config(scores, model_dir, tmp_path / "learned"))
    assert result.summary["held_out"]["share_better"] is None and "epochs" not in result.tables
    before, after = (load_model(str(folder)).network.state_dict() for folder in (model_dir, tmp_path / "learned"))
    assert all((after[name] == old).all() for name, old in before.items())


@pytest.mark.parametrize(("step", "is_better"), [(1, True), (-1, False), (0, False)])
def test_learned_weights_are_used_only_where_cracks_kept_apart_rank_higher(
    monkeypatch: pytest.MonkeyPatch, step: int, is_better: bool
) -> None:
    def brightest(model: int, tiles: np.ndarray, _: int) -> np.ndarray:
        """A stand-in for the model; the learned one, `model` = 1, scores every crack higher or lower by a step."""
        level = tiles.reshape(len(tiles), -1).max(1).astype(float)
        return (level + 20 * model * step * (level % 2))[:, None]

    monkeypatch.setattr("crackvae.training.learn.held_out.score_tiles", brightest)
    others = np.arange(0, 200, 2, dtype=np.uint8)[:, None, None]
    cracks = np.arange(101, 141, 2, dtype=np.uint8)[:, None, None]
    found = compared(0, 1, cracks, others, seed=0)  # type: ignore[arg-type]
    assert (found.cracks, found.are_found_better) == (20, is_better)
    assert not HeldOutCracks(MIN_CRACKS - 1).are_found_better


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
    (tile,) = worst_tiles(images, "judged sound", spec, quiet=True)
    assert (tile == pixels[24:56, 48:80]).all()


def test_what_cannot_be_learned_from_is_refused_before_anything_is_trained(
    scores: Path, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=r"no verdict on the images of .*scores: judge some with crackvae review"):
        learn(config(scores, model_dir, tmp_path / "learned"))
    judge(scores, 2, 0)
    with pytest.raises(CalibrationError, match=r"belong to [1-4] groups, .* give --group-by none"):
        learn(config(scores, model_dir, tmp_path / "learned", group_by="table"))
    plain = write_model(tmp_path / "plain", small_spec(segmenter=(), recipe="plain", head="mse"))
    with pytest.raises(ModelError, match="plain has no segmenter, which is what learns from verdicts"):
        learn(config(scores, plain, tmp_path / "learned"))
    with pytest.raises(CalibrationError, match=r"tiles would set the threshold, and 10[0-9][0-9] are needed"):
        learn(config(scores, model_dir, tmp_path / "learned", max_false_alarm=0.001))
    with pytest.raises(OutputExists):
        learn(config(scores, model_dir, scores))
    assert not (tmp_path / "learned").exists()
