"""N jobs share one folder of scores, each with its part of the images; `report` shows them as one night."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import HOUSE, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_head import Head

from crackvae.config import CompactConfig, NightlyConfig, ReportConfig, ScoreConfig
from crackvae.errors import ConfigError, FolderInUse, StorageError
from crackvae.reports.night_page.nights import read_night
from crackvae.reports.night_page.rounds import left_of, rounds_of
from crackvae.reports.verb import report
from crackvae.scoring import actors, run_table
from crackvae.scoring.compaction import compact
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.lock import locked
from crackvae.storage.names.shards import Shard, are_disjoint, is_in_shard, shard_of, start_of
from crackvae.storage.tables import new_run

pytestmark = pytest.mark.slow

N_SHARDS = 4


def config(images: Path, model_dir: Path, out: Path, shard: str = "", **changes: object) -> ScoreConfig:
    values = {"images": str(images), "model": str(model_dir), "out": str(out), "shard": shard, "quiet": True}
    return ScoreConfig(**values | changes)


def values_of(out: Path) -> str:
    """The rows that count, without the names of their runs; NaN equals NaN."""
    return repr(tables.read_scores(str(out), tables.SCORES_SCHEMA.names).drop_columns(["run"]).to_pylist())


def page_of(out: Path) -> dict[str, object]:
    return report(ReportConfig(scores=str(out), out=str(out / "_page.html"), worst=2, passed=0, quiet=True)).summary


@pytest.fixture
def whole(drawn: Path, model_dir: Path, tmp_path: Path, in_process: None) -> Path:
    """The table that one job writes."""
    out = tmp_path / "whole"
    score(config(drawn / "crack", model_dir, out, no_report=True))
    return out


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(codec="utf-8"))), st.integers(1, 9))
def test_every_image_belongs_to_exactly_one_shard(names: list[str], count: int) -> None:
    for name in names:
        assert sum(is_in_shard(name, Shard(number, count)) for number in range(1, count + 1)) == 1


def test_the_shard_of_an_image_never_changes() -> None:
    """Another one would score every image again that is in a table now."""
    names = ["/data/images/1.jpg", "s3://bridges/ä b.jpg"]
    assert [[is_in_shard(name, Shard(number, 3)) for name in names] for number in (1, 2, 3)] == [
        [True, False],
        [False, True],
        [False, False],
    ]


def test_the_name_of_a_run_carries_its_shard_and_stays_later_than_the_others() -> None:
    run = new_run(["20991123T220010_123456", "20991123T220010_123457.2of8"], Shard(3, 8))
    assert run == "20991123T220010_123458.3of8"
    assert shard_of(run) == Shard(3, 8) and start_of(run) == "20991123T220010_123458"
    assert shard_of("20991123T220010_123456") is None
    assert not are_disjoint(run, "20991123T220010_123456") and not are_disjoint(run, "20991123T220010_123457.2of9")
    assert are_disjoint(run, "20991123T220010_123457.2of8") and not are_disjoint(run, run)


@pytest.mark.parametrize("shard", ["0/4", "5/4", "3", "a/b", "1/0", "1/4/2", "-1/4"])
def test_a_shard_that_does_not_exist_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match="write I/N, such as 1/8"):
        ScoreConfig(images="images", shard=shard)


def test_what_needs_all_images_of_a_night_is_refused_for_a_shard() -> None:
    with pytest.raises(ConfigError, match="leave out --shard"):
        ScoreConfig(images="images", shard="1/4", max_false_discovery=0.1)
    assert "shard" not in {one.name for one in fields(NightlyConfig)}


def killed_after_one_part(settings: ScoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run score in a process that is killed when its first part is written."""
    write_part = tables.write_part

    def write_and_die(*arguments: object) -> None:
        write_part(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(actors, "BLOCK_IMAGES", 4)
        patched.setattr(run_table, "PART_ROWS", 4)
        patched.setattr(tables, "write_part", write_and_die)
        pid = os.fork()
        if not pid:
            score(settings)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("seed", range(2))
def test_shards_in_any_order_with_one_killed_are_the_rows_and_the_page_of_one_job(
    drawn: Path, model_dir: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    out, chance = tmp_path / "out", random.Random(seed)
    shards = [f"{number}/{N_SHARDS}" for number in range(1, N_SHARDS + 1)]
    chance.shuffle(shards)
    killed = chance.choice(shards)
    killed_after_one_part(config(drawn / "crack", model_dir, out, killed), monkeypatch)
    scored = [score(config(drawn / "crack", model_dir, out, shard)).summary for shard in shards]
    assert values_of(out) == values_of(whole)
    assert read_rows(out).num_rows == read_rows(whole).num_rows, "no image has two rows"
    (resumed,) = [one for one in scored if one["run"].endswith(killed.replace("/", "of"))]
    assert resumed["finished_before"] >= 4 and resumed["listed"] == resumed["finished_before"] + resumed["scored"]
    assert all(one["report"] == "" for one in scored)
    one, other = page_of(out), page_of(whole)
    assert one["shards"] == N_SHARDS and one["shards_left"] == []
    assert {name: one[name] for name in ("images", "flagged")} == {name: other[name] for name in ("images", "flagged")}
    assert one["listed"] == other["images"] == one["scored"] + one["finished_before"]


@pytest.mark.usefixtures("in_process")
def test_the_page_names_the_shards_that_have_not_ended(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    for shard in ("1/4", "3/4"):
        score(config(drawn / "crack", model_dir, tmp_path, shard))
    assert page_of(tmp_path)["shards_left"] == [2, 4]
    assert "2 of 4 shards have not ended</b> (2, 4)" in (tmp_path / "_page.html").read_text()


@pytest.mark.usefixtures("in_process")
def test_a_shard_without_images_is_done_and_a_folder_without_images_is_refused(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    image = sorted((drawn / "crack").iterdir())[0]
    listed = [score(config(image, model_dir, tmp_path, f"{number}/3")).summary["listed"] for number in range(1, 4)]
    assert sorted(listed) == [0, 0, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="contains no images"):
        score(config(tmp_path / "empty", model_dir, tmp_path, "1/3"))


@pytest.mark.usefixtures("in_process")
def test_disjoint_shards_work_side_by_side_and_everything_else_is_refused(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    images = drawn / "crack"
    with locked(str(tmp_path), new_run([], Shard(2, 4)), quiet=True):
        assert score(config(images, model_dir, tmp_path, "1/4")).summary["scored"] > 0
        for shard in ("2/4", "2/5", ""):
            with pytest.raises(FolderInUse, match="2of4"):
                score(config(images, model_dir, tmp_path, shard))
        with pytest.raises(FolderInUse, match="2of4"):
            compact(CompactConfig(scores=str(tmp_path), quiet=True))


@pytest.mark.usefixtures("in_process")
def test_another_number_of_shards_or_one_job_goes_on_where_shards_have_stopped(
    drawn: Path, model_dir: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for shard in ("1/4", "2/3", "4/4", ""):
        score(config(drawn / "crack", model_dir, out, shard, no_report=True))
    assert values_of(out) == values_of(whole) and read_rows(out).num_rows == read_rows(whole).num_rows


@pytest.mark.usefixtures("in_process")
def test_a_shard_writes_no_csv_of_a_shard_that_may_be_at_work(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    at_work = new_run([], Shard(2, 4))
    tables.write_part(str(tmp_path), tables.SCORES_SCHEMA.empty_table(), at_work, 0)
    written = score(config(drawn / "crack", model_dir, tmp_path, "1/4", format=("parquet", "csv"))).summary["csv"]
    assert len(written) == 1 and written[0].endswith(".1of4.csv")


def test_a_round_has_each_shard_once() -> None:
    runs = ["1.1of2", "2.2of2", "3.2of2", "4.2of2", "5.1of2", "6.2of2", "7", "8.1of3"]
    with_rows = {"1.1of2", "2.2of2", "3.2of2", "5.1of2", "7", "8.1of3"}
    ended = {"1.1of2", "3.2of2", "4.2of2", "6.2of2", "7"}  # 2.2of2 was killed; 4.2of2 and 6.2of2 had nothing to score
    assert rounds_of(runs, with_rows, ended) == [runs[:4], runs[4:6], ["7"], ["8.1of3"]]
    assert left_of(runs[:4], ended) == [] and left_of(runs[4:6], ended) == [Shard(1, 2)]
    assert left_of(["7"], ended) == [] and left_of(["8.1of3"], ended) == [Shard(1, 3), Shard(2, 3), Shard(3, 3)]


@pytest.mark.usefixtures("in_process")
def test_the_next_night_of_shards_has_a_page_of_its_own_and_one_point_in_the_trend(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    for images in ("crack", "non_crack"):
        for shard in ("1/2", "2/2"):
            score(config(drawn / images, model_dir, tmp_path, shard))
    night = read_night(str(tmp_path), "")
    assert night.rows.num_rows == len(list((drawn / "non_crack").iterdir()))
    assert [one.listed for one in night.summaries] == [
        len(list((drawn / of).iterdir())) for of in ("crack", "non_crack")
    ]


def test_shards_that_share_a_ray_cluster_write_the_rows_of_one_job(
    drawn: Path, model_dir: Path, whole: Path, tmp_path: Path, head: Head
) -> None:
    out = tmp_path / "out"
    flags = ["score", drawn / "crack", "--model", model_dir, "--out", out, "--workers", 1, "--address", head.address]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "crackvae", *map(str, flags), "--shard", f"{number}/2"],
            env=os.environ | {"PYTHONPATH": str(HOUSE)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    errors = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    assert values_of(out) == values_of(whole)
