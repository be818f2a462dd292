"""Champion and challenger: compared on judged images, promoted if not worse, and used by the other verbs."""

from pathlib import Path

import numpy as np
import pytest
from conftest import small_spec, write_model

import crackvae
from crackvae.errors import ConfigError, ManifestError, ModelError, StorageError
from crackvae.metrics import Decisions, paired_intervals

pytestmark = [pytest.mark.usefixtures("in_process"), pytest.mark.slow]


@pytest.fixture
def pictures(drawn: Path) -> list[Path]:
    return [*sorted((drawn / "crack").iterdir())[:30], *sorted((drawn / "non_crack").iterdir())[:60]]


@pytest.fixture
def champion(pictures: list[Path], tmp_path: Path) -> Path:
    """A model with random weights that flags half of the pictures."""
    trial = write_model(tmp_path / "trial", small_spec(head="mse"))
    crackvae.score(images=pictures, model=trial, out=tmp_path / "trial-scores", no_report=True, quiet=True)
    scores_N = crackvae.read_scores(tmp_path / "trial-scores", ["score"])["score"].to_numpy()
    return write_model(tmp_path / "champion", small_spec(head="mse"), threshold=float(np.median(scores_N)))


@pytest.fixture
def site(champion: Path, tmp_path: Path) -> Path:
    """A registry with the champion."""
    assert crackvae.promote(model=champion, registry=tmp_path / "site", who="anna").before == ""
    return tmp_path / "site"


@pytest.fixture
def judged(champion: Path, pictures: list[Path], tmp_path: Path) -> Path:
    """Scores of drawn images with right verdicts on them."""
    out = tmp_path / "scores"
    crackvae.score(images=pictures, model=champion, out=out, no_report=True, quiet=True)
    lines = [f'"{one}",{"crack" if one.parent.name == "crack" else "sound"}' for one in pictures]
    (tmp_path / "v.csv").write_text("image,verdict\n" + "\n".join(lines))
    crackvae.review(scores=out, import_=tmp_path / "v.csv", reviewer="anna")
    return out


def test_a_model_that_finds_less_is_refused_with_the_figures_unless_a_reason_is_given(
    site: Path, judged: Path, tmp_path: Path
) -> None:
    blind = write_model(tmp_path / "blind", small_spec(head="mse", seed=1), threshold=9.0)
    with pytest.raises(ModelError, match=r"is not promoted: its recall is 0, and .* 95 % interval"):
        crackvae.promote(model=blind, registry=site, scores=judged, resamples=100, quiet=True)
    compared = crackvae.compare(champion=site, challenger=blind, scores=judged, resamples=100, quiet=True)
    assert (compared.images, compared.cracks) == (90, 30) and "its recall is 0" in compared.why_not
    recall = compared.figures["recall"]
    assert recall["challenger"] == 0 and recall["high"] < 0 and recall["difference"] == -recall["champion"]
    assert compared.changed == sum(crackvae.read_scores(judged, ["flagged"])["flagged"].to_pylist())
    done = crackvae.promote(model=blind, registry=site, scores=judged, why="a trial", resamples=100, quiet=True)
    assert done.summary["why"] == "a trial" and done.summary["figures"]["images"] == 90


def test_a_model_that_flags_everything_breaks_its_promise(site: Path, judged: Path, tmp_path: Path) -> None:
    nervous = write_model(tmp_path / "nervous", small_spec(head="mse", seed=2), threshold=-1e-6)
    with pytest.raises(ModelError, match="it flags 100 % of the sound images, and at most"):
        crackvae.promote(model=nervous, registry=site, scores=judged, resamples=100, quiet=True)


def test_a_registry_is_a_model_for_the_other_verbs(site: Path, champion: Path, drawn: Path, tmp_path: Path) -> None:
    same = crackvae.score(images=drawn / "crack", model=site, out=tmp_path / "out", quiet=True)
    digest = crackvae.info(path=site).summary["digest"]
    assert same.model == digest == crackvae.info(path=champion).summary["digest"] and same.page
    other = write_model(tmp_path / "other", small_spec(head="mse", seed=3))
    with pytest.raises(ModelError, match="was not compared with the current model"):
        crackvae.promote(model=other, registry=site)
    crackvae.promote(model=other, registry=site, why="by hand")
    assert crackvae.report(scores=tmp_path / "out", model=site, out=tmp_path / "page.html").page, "of an earlier model"
    assert crackvae.rollback(registry=site, why="worse").model == digest


def test_what_cannot_be_compared_is_refused(site: Path, champion: Path, pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either --manifest or --scores"):
        crackvae.compare(champion=site, challenger=champion)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty holds no scores"):
        crackvae.compare(champion=site, challenger=champion, scores=tmp_path / "empty")
    crackvae.score(images=pictures[:2], model=champion, out=tmp_path / "unjudged", no_report=True, quiet=True)
    with pytest.raises(ManifestError, match="0 images with 0 cracks"):
        crackvae.compare(champion=site, challenger=champion, scores=tmp_path / "unjudged")


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    rng = np.random.default_rng(0)
    is_crack_N, groups_N = np.arange(400) % 2 == 0, np.arange(400) // 4
    scores_N = rng.normal(size=400) + 2 * is_crack_N
    better_N = scores_N + 0.5 * is_crack_N
    one, two = Decisions(scores_N, scores_N > 2), Decisions(better_N, better_N > 2)
    table = paired_intervals(is_crack_N, groups_N, one, two, 200, 0)
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    assert table.loc["roc_auc", "low"] > 0 and table.loc["recall", "low"] > 0
    assert tuple(table.loc["false_alarm_rate", ["difference", "low", "high"]]) == (0, 0, 0)
    same = paired_intervals(is_crack_N, groups_N, one, one, 200, 0)
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)


def test_an_image_that_was_judged_on_two_nights_counts_once(
    site: Path, judged: Path, champion: Path, pictures: list[Path], tmp_path: Path
) -> None:
    later = tmp_path / "later"
    crackvae.score(images=pictures[:5], model=champion, out=later, no_report=True, quiet=True)
    (tmp_path / "again.csv").write_text("image,verdict\n" + "\n".join(f'"{one}",crack' for one in pictures[:5]))
    crackvae.review(scores=later, import_=tmp_path / "again.csv", reviewer="ben")
    n_sound = sum(one.parent.name != "crack" for one in pictures[:5])
    both = crackvae.compare(champion=site, challenger=champion, scores=[judged, later], resamples=100, quiet=True)
    assert (both.images, both.cracks) == (90, 30 + n_sound), "the last verdict counts"
