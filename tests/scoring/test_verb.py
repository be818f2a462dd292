"""Scoring through Ray Data: every image is one row, a rerun goes on, workers and batches change nothing."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from conftest import read_rows, score_in_process, small_spec, write_model
from PIL import Image
from scipy.stats import false_discovery_control

from crackvae.config import CalibrateConfig, CompactConfig, ReportConfig, ScoreConfig, ScoringConfig
from crackvae.errors import ClusterError, FolderInUse, LimitBroken, ModelError, StorageError
from crackvae.images.groups import with_groups
from crackvae.images.synthetic import draw_image
from crackvae.model.inference import load_scorer
from crackvae.reports import matplotlib_folder
from crackvae.scoring import actors, compaction, pages, run_table, summaries, verb
from crackvae.scoring.actors import Plan, plan, score_rows
from crackvae.scoring.compaction import compact
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.listing import list_images

ODD_NAMES = ("with spaces.jpg", "über.jpg", "=1+1.jpg", "a,b'c\"d.jpg", "100%#?.jpg", "line\nbreak.jpg")


@pytest.fixture
def night(drawn: Path, tmp_path: Path) -> Path:
    """24 drawn images, odd names, odd formats and broken files, in two folders."""
    folder = tmp_path / "night"
    (folder / "bridge-7").mkdir(parents=True)
    images = sorted((drawn / "crack").iterdir())
    for number, image in enumerate(images[:24]):
        shutil.copy(image, folder / ("bridge-7" if number % 2 else ".") / f"{number:03d}.jpg")
    for name in ODD_NAMES:
        shutil.copy(images[30], folder / name)
    pixels, _ = draw_image(1, 1, True, 64)
    whole = images[31].read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("no image, and not listed as one")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:48]).save(folder / "turned.jpg", exif=exif)
    return folder


def config(night: Path, model_dir: Path, out: Path, **changes: object) -> ScoreConfig:
    values = {
        "images": str(night),
        "model": str(model_dir),
        "out": str(out),
        "max_unreadable": "3",
        "quiet": True,
        "no_report": True,
    }
    return ScoreConfig(**values | changes)


def same_scores(one: pa.Table, other: pa.Table) -> bool:
    """Bit for bit, apart from the name of the run; NaN equals NaN."""
    one, other = (rows.drop_columns(["run"]).to_pylist() for rows in (one, other))
    return repr(one) == repr(other)


@pytest.mark.usefixtures("ray_session")
def test_every_file_is_one_row_and_the_bad_ones_say_why(night: Path, model_dir: Path, tmp_path: Path) -> None:
    outcome = score(config(night, model_dir, tmp_path / "out"))
    rows = read_rows(tmp_path / "out")
    files = {str(path) for path in night.rglob("*") if path.is_file() and path.suffix != ".txt"}
    assert rows["image"].to_pylist() == sorted(files)
    bad = {Path(row["image"]).name: row["error"] for row in rows.to_pylist() if row["status"] != "scored"}
    assert set(bad) == {"empty.jpg", "truncated.jpg", "text.jpg"}
    assert (
        bad["empty.jpg"] == "empty file" and "truncated" in bad["truncated.jpg"] and "not an image" in bad["text.jpg"]
    )
    by_name = {Path(row["image"]).name: row for row in rows.to_pylist()}
    assert (by_name["turned.jpg"]["width"], by_name["turned.jpg"]["height"]) == (48, 64)
    assert by_name["001.jpg"]["group"] == "bridge-7" and by_name["000.jpg"]["group"] == ""
    assert outcome.summary["listed"] == len(files) and outcome.summary["skipped_files"] == 1
    assert (outcome.summary["scored"], outcome.summary["unreadable"]) == (len(files) - 3, 3)
    worst = max(rows["score"].to_pylist(), key=lambda value: -np.inf if np.isnan(value) else value)
    assert outcome.tables["most suspicious"]["score"].iloc[0] == np.float32(worst)


@pytest.mark.usefixtures("in_process")
def test_a_second_run_scores_nothing_and_says_so(
    night: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(config(night, model_dir, tmp_path / "out"))
    before = read_rows(tmp_path / "out")
    again = score(config(night, model_dir, tmp_path / "out", quiet=False))
    assert again.summary["scored"] == 0 and again.summary["finished_before"] == again.summary["listed"]
    assert "nothing to score" in capsys.readouterr().err
    assert read_rows(tmp_path / "out")["run"].equals(before["run"])


def same_but_for_rounding(one: pa.Table, other: pa.Table) -> bool:
    """As same_scores(), with scores equal to five digits."""
    for column in ("score", "tile_scores"):
        values = [
            np.asarray(rows[column].combine_chunks().flatten() if column == "tile_scores" else rows[column])
            for rows in (one, other)
        ]
        np.testing.assert_allclose(*values, rtol=1e-5)
    return same_scores(*(rows.drop_columns(["score", "tile_scores"]) for rows in (one, other)))


@pytest.mark.usefixtures("ray_session")
def test_workers_batches_and_block_sizes_change_no_row(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"one": (1, 16, 128, "screen"), "two": (2, 16, 3, "screen"), "whole": (2, 16, 9, "onnx")}
    for name, (workers, batch, block, precision) in (runs | {"small": (2, 5, 3, "onnx")}).items():
        monkeypatch.setattr(actors, "BLOCK_IMAGES", block)
        score(config(night, model_dir, tmp_path / name, workers=workers, batch=batch, precision=precision))
    assert same_scores(read_rows(tmp_path / "one"), read_rows(tmp_path / "two"))
    with monkeypatch.context() as patch:
        score_in_process(patch)
        score(config(night, model_dir, tmp_path / "here", batch=16, precision="screen"))
    assert same_scores(read_rows(tmp_path / "one"), read_rows(tmp_path / "here"))
    # A pass of another shape may be summed in another order.
    assert same_but_for_rounding(read_rows(tmp_path / "whole"), read_rows(tmp_path / "small"))


@pytest.mark.usefixtures("in_process")
def test_a_screen_that_left_most_tiles_to_float32_is_left_out_the_next_time(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    out, model = tmp_path / "out", write_model(tmp_path / "model", small_spec(), threshold=1e-6)
    first = score(config(night, model, out, prefix="bridge-7/", quiet=False)).summary
    assert first["screened"]["again"] == first["screened"]["tiles"] > 0
    assert "float32 decides" in capsys.readouterr().err
    second = score(config(night, model, out, quiet=False)).summary
    assert "screened" not in second and second["scored"] > 0
    assert "100% of the last run's tiles were scored twice" in capsys.readouterr().err
    wanted = score(config(night, model, tmp_path / "asked", precision="screen", prefix="bridge-7/")).summary
    assert wanted["screened"] == first["screened"]


def test_earlier_summaries_are_not_read_where_no_screen_could_be_left_out(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "share_scored_again", lambda *_: pytest.fail("summaries were read"))
    scorer, out = load_scorer(str(model_dir)), str(tmp_path)
    asked = config(tmp_path, model_dir, tmp_path, precision="screen")
    assert verb._without_useless_screen(asked, out, scorer) is asked
    monkeypatch.setattr(verb, "screens", lambda *_: False)
    auto = config(tmp_path, model_dir, tmp_path)
    assert verb._without_useless_screen(auto, out, scorer) is auto


def test_a_screened_run_is_looked_for_in_the_latest_summaries_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "MAX_SUMMARIES", 3)
    run = {"model": "m", "threshold": 1.0, "screened": {"tiles": 10, "again": 9}}
    for number in range(4):
        (tmp_path / f"_summary-{number}.json").write_text(json.dumps(run if number == 1 else run | {"screened": None}))
    assert summaries.share_scored_again(str(tmp_path), "m", 1.0) == 0.9
    (tmp_path / "_summary-4.json").write_text("{half")
    assert summaries.share_scored_again(str(tmp_path), "m", 1.0) == 0


@pytest.mark.parametrize(
    ("n", "mb", "settings", "address", "needed"),
    [
        (1_000, 128, {}, "", False),
        (1_001, 1, {}, "", True),
        (2, 129, {}, "", True),
        (1, 1, {"workers": 1}, "", True),
        (1, 1, {"gpu": True}, "", True),
        (1, 1, {"address": "auto"}, "", True),
        (1, 1, {}, "auto", True),
    ],
)
def test_a_few_small_images_on_this_machine_alone_start_no_ray(
    n: int, mb: int, settings: dict[str, Any], address: str, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(actors, "is_on_ray", lambda: False)
    names = [f"/night/{number}.jpg" for number in range(n)]
    images = pa.table({"image": names, "bytes": pa.array([mb * 1_000_000 // n] * n, pa.int64())})
    assert actors.needs_ray(images, ScoringConfig(**settings)) is needed


def test_a_file_of_many_images_counts_once_and_files_of_one_size_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(actors, "is_on_ray", lambda: False)
    parts = ["a.mp4!/t=0000.000", "a.mp4!/t=0001.000", "b.tif!/page=2", "b.tif!/x=0,y=0,w=8,h=8", "c.tif", "d.tif"]
    for names, needed in (
        (parts[:2], False),
        (parts[:4], True),
        (parts[3:5], True),
        (["x.zip!/a.tif", "x.zip!/b.tif"], True),
    ):
        images = pa.table({"image": names, "bytes": pa.array([70_000_000] * len(names), pa.int64())})
        assert actors.needs_ray(images, ScoringConfig()) is needed, names


@pytest.mark.usefixtures("ray_session")
def test_decoding_tasks_that_feed_a_pool_of_gpu_actors_give_the_same_table(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "GPU_DEVICE", "cpu")
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 5)
    score(config(night, model_dir, tmp_path / "cpu"))
    score(config(night, model_dir, tmp_path / "gpu", gpu=True, batch=8))
    assert same_but_for_rounding(read_rows(tmp_path / "cpu"), read_rows(tmp_path / "gpu"))


@pytest.mark.usefixtures("in_process")
def test_flagged_images_whose_cracks_were_not_traced_are_traced_by_a_run_that_traces(
    night: Path, model_dir: Path, tmp_path: Path
) -> None:
    off = score(config(night, model_dir, tmp_path / "out", findings="off")).summary
    rows = read_rows(tmp_path / "out")
    assert rows["untraced"].to_pylist() == rows["flagged"].to_pylist() and off["flagged"] > 0
    assert score(config(night, model_dir, tmp_path / "out", findings="off")).summary["listed"] == off["listed"]
    assert score(config(night, model_dir, tmp_path / "out")).summary["scored"] == off["flagged"]
    assert not any(tables.read_scores(str(tmp_path / "out"), ["untraced"])["untraced"].to_pylist())
    assert score(config(night, model_dir, tmp_path / "out")).summary["scored"] == 0


@pytest.mark.usefixtures("in_process")
def test_a_changed_image_and_a_new_model_are_scored_again(night: Path, model_dir: Path, tmp_path: Path) -> None:
    score(config(night, model_dir, tmp_path / "out"))
    os.utime(night / "000.jpg", (0, 0))
    assert score(config(night, model_dir, tmp_path / "out")).summary["scored"] == 1
    other = write_model(tmp_path / "other", small_spec(seed=9))
    fresh = score(config(night, other, tmp_path / "out")).summary
    assert fresh["finished_before"] == 0 and fresh["scored"] + fresh["unreadable"] == fresh["listed"]


@pytest.mark.usefixtures("in_process")
def test_an_unreachable_image_comes_again(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = list_images(str(night))
    (night / "001.jpg.gone").write_bytes(b"")
    listed = pa.concat_tables([real.images, real.images.slice(0, 1)]).to_pylist()
    listed[-1]["image"] = str(night / "vanished.jpg")
    longer = replace(real, images=pa.Table.from_pylist(listed, schema=real.images.schema))
    monkeypatch.setattr(verb, "list_paths", lambda *_, **__: longer)
    first = score(config(night, model_dir, tmp_path / "out")).summary
    assert (first["unreachable"], first["listed"]) == (1, len(listed))
    shutil.copy(night / "000.jpg", night / "vanished.jpg")
    second = score(config(night, model_dir, tmp_path / "out")).summary
    assert (second["scored"], second["unreachable"], second["finished_before"]) == (1, 0, len(listed) - 1)


@pytest.mark.usefixtures("in_process")
def test_a_broken_limit_ends_with_an_error_after_all_rows_are_written(
    night: Path, model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(LimitBroken, match="3 of 36 images are unreadable, more than --max-unreadable 2") as broken:
        score(config(night, model_dir, tmp_path / "out", max_unreadable="2"))
    assert broken.value.outcome.summary["scored"] == 33
    assert read_rows(tmp_path / "out").num_rows == 36
    with pytest.raises(LimitBroken, match="3 of 36 images are unreadable") as again:
        score(config(night, model_dir, tmp_path / "out", max_unreadable="2"))
    summary = again.value.outcome.summary
    assert (summary["finished_before"], summary["unreadable_before"], summary["unreadable"]) == (36, 3, 0)
    assert score(config(night, model_dir, tmp_path / "out", max_unreadable="3")).summary["scored"] == 0


@pytest.mark.usefixtures("in_process")
def test_the_csv_is_the_table_without_tile_scores_and_runs_no_formula(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(night)
    outcome = score(config(Path("=1+1.jpg"), model_dir, tmp_path / "out", format=("parquet", "csv"), group_by="="))
    (file,) = outcome.summary["csv"]
    table = pacsv.read_csv(file, parse_options=pacsv.ParseOptions(newlines_in_values=True))
    assert table.column_names == [name for name in tables.SCORES_SCHEMA.names if name != "tile_scores"]
    assert table["image"].to_pylist() == [str(night / "=1+1.jpg")] and table["group"].to_pylist() == ["'="]


@pytest.mark.usefixtures("in_process")
def test_a_run_that_was_killed_before_its_csv_gets_one_from_the_next(
    night: Path, model_dir: Path, tmp_path: Path
) -> None:
    score(config(night, model_dir, tmp_path / "out"))
    outcome = score(config(night, model_dir, tmp_path / "out", format=("parquet", "csv")))
    assert outcome.summary["scored"] == 0 and len(outcome.summary["csv"]) == 1


@pytest.mark.usefixtures("in_process")
def test_the_table_reads_as_one_dataset_beside_csv_and_summaries(night: Path, model_dir: Path, tmp_path: Path) -> None:
    outcome = score(config(night, model_dir, tmp_path / "out", format=("parquet", "csv")))
    assert pq.read_table(tmp_path / "out").num_rows == 36
    (summary,) = (tmp_path / "out").glob("_summary-*.json")
    assert json.loads(summary.read_text()) == outcome.summary


@pytest.mark.usefixtures("in_process")
def test_rows_of_an_older_threshold_are_counted(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from crackvae.scoring.calibrate import calibrate

    model = write_model(tmp_path / "model", small_spec())
    before = score(config(night, model, tmp_path / "out")).summary
    calibrate(CalibrateConfig(model=str(model), images=str(night), percentile=90, quiet=True))
    after = score(config(night, model, tmp_path / "out", quiet=False)).summary
    assert "the threshold of the model changed since the last run, and 36 finished images" in capsys.readouterr().err
    assert before["rows_with_an_older_threshold"] == 0
    assert after["rows_with_an_older_threshold"] == after["finished_before"] == 36


@pytest.mark.usefixtures("in_process")
def test_settings_that_finished_images_lack_are_named(
    night: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scales = tmp_path / "scales.csv"
    scales.write_text("group,mm_per_px\nbridge-7,0.2\n")

    def said(**changes: object) -> str:
        score(config(night, model_dir, tmp_path / "out", quiet=False, **changes))
        lines = capsys.readouterr().err.splitlines()
        return next((line for line in lines if "since the last run" in line), "")

    assert said(mm_table=str(scales)) == said(mm_table=str(scales)) == ""
    assert said(mm_table=str(scales), mm_per_px=0.5, group_by="none").startswith("--group-by, --mm-per-px changed")
    scales.write_text("group,mm_per_px\nbridge-7,0.3\n")
    assert said(mm_table=str(scales)).startswith("--mm-table changed since the last run, and 36 finished images")
    assert said().startswith("--mm-table changed"), "a run that writes no row changes no setting of the rows"


@pytest.mark.usefixtures("in_process")
def test_a_run_that_fails_half_way_keeps_its_rows(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = actors.score_rows

    def fails_half_way(*arguments: object, **others: Any) -> object:
        blocks = real(*arguments, **others)
        yield next(blocks)
        raise KeyboardInterrupt

    monkeypatch.setattr(actors, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(verb, "score_rows", fails_half_way)
    with pytest.raises(KeyboardInterrupt):
        score(config(night, model_dir, tmp_path / "out"))
    kept = read_rows(tmp_path / "out").num_rows
    assert 0 < kept < 36
    monkeypatch.setattr(verb, "score_rows", real)
    assert score(config(night, model_dir, tmp_path / "out")).summary["finished_before"] == kept
    score(config(night, model_dir, tmp_path / "undisturbed"))
    assert same_scores(read_rows(tmp_path / "out"), read_rows(tmp_path / "undisturbed"))


@pytest.mark.usefixtures("in_process")
def test_parts_are_written_completely_during_the_run(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(run_table, "PART_ROWS", 10)
    score(config(night, model_dir, tmp_path / "out"))
    ((_, parts),) = tables.list_parts(str(tmp_path / "out")).items()
    assert len(parts) == 3 and not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("model", ["missing", "empty folder"])
@pytest.mark.usefixtures("in_process")
def test_a_wrong_model_is_refused_before_anything_is_written(night: Path, tmp_path: Path, model: str) -> None:
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(ModelError, match="is no model directory"):
        score(config(night, tmp_path / model, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("ray_session")
def test_more_actors_than_the_cluster_holds_are_refused(night: Path, model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--workers 99 needs as many CPUs, and the cluster has 2: give --workers 2"):
        score(config(night, model_dir, tmp_path / "out", workers=99))
    with pytest.raises(ClusterError, match="--workers 3 needs as many GPUs, and the cluster has 1: give --workers 1"):
        score(config(night, model_dir, tmp_path / "out", gpu=True, workers=3))
    assert not tables.list_parts(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("resources", "flags", "wanted"),
    [
        ({"CPU": 1.0}, {}, Plan(1, 0.5, 0, 8, 128)),
        ({"CPU": 2.0}, {}, Plan(2, 0.5, 0, 8, 128)),
        ({"CPU": 16.0}, {}, Plan(16, 0.9375, 0, 8, 128)),
        ({"CPU": 16.0}, {"workers": 4, "batch": 12}, Plan(4, 1.0, 0, 12, 128)),
        ({"CPU": 16.0, "GPU": 2.0}, {"gpu": True}, Plan(2, 0, 1, 256, 128)),
    ],
    ids=str,
)
def test_the_plan_follows_the_cluster_and_the_flags_and_leaves_a_cpu(
    resources: dict[str, float], flags: dict[str, Any], wanted: Plan
) -> None:
    found = plan(100_000, ScoringConfig(**flags), resources)
    assert found == wanted and found.actors * found.cpus <= max(0.5, resources["CPU"] - 1)
    assert f"{found.actors} actor(s) of" in str(found) and f"batches of {found.batch} tiles" in str(found)


def test_a_few_images_are_spread_over_all_actors() -> None:
    found = plan(10, ScoringConfig(), {"CPU": 4.0})
    assert (found.actors, found.block_images) == (4, 2)


def test_large_photographs_are_spread_in_small_blocks() -> None:
    of_bytes = {each: plan(1_000, ScoringConfig(), {"CPU": 4.0}, 1_000 * each) for each in (10_000, 500_000, 9_000_000)}
    assert [found.block_images for found in of_bytes.values()] == [125, 8, 1]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_of_one_process_give_the_rows_of_one_in_their_order(
    night: Path, model_dir: Path, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, scorer = with_groups(list_images(str(night)), "none"), load_scorer(str(model_dir))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(n_threads))
    rows = pa.concat_tables(score_rows(images, scorer, ScoringConfig(quiet=True, batch=2), "run"))
    assert rows["image"].equals(images["image"])
    alone = [
        pa.concat_tables(score_rows(images.slice(at, 1), scorer, ScoringConfig(quiet=True), "run")) for at in (0, 9, 30)
    ]
    assert same_scores(pa.concat_tables(alone), rows.take([0, 9, 30]))


def test_a_bug_on_a_thread_ends_scoring_in_a_process(
    night: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, scorer: object) -> Any:
        return lambda decoded: 1 / 0

    monkeypatch.setattr(actors.ScoringSettings, "row_function", failing)
    images, scorer = with_groups(list_images(str(night)), "none"), load_scorer(str(model_dir))
    with pytest.raises(ZeroDivisionError):
        list(score_rows(images, scorer, ScoringConfig(quiet=True), "run"))


@pytest.mark.usefixtures("ray_session")
def test_while_a_pool_of_all_cpus_scores_a_task_of_one_cpu_still_runs(
    night: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    scorer = load_scorer(str(model_dir))
    rows = score_rows(with_groups(list_images(str(night)), "none"), scorer, ScoringConfig(), "run")
    first = next(rows)
    assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote(), timeout=60) == 7
    assert first.num_rows + sum(table.num_rows for table in rows) == 36
    assert "plan: 2 actor(s) of 0.5 CPU that read, decode and score" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_since_and_prefix_choose_among_nights_and_leave_the_names_of_groups(
    night: Path, model_dir: Path, tmp_path: Path
) -> None:
    for image in (night / "bridge-7").iterdir():
        os.utime(image, (1e9, 1e9))
    by_prefix = score(config(night, model_dir, tmp_path / "a", prefix="bridge-7/")).summary
    by_time = score(
        config(night, model_dir, tmp_path / "b", since="2002-01-01T00:00+02:00", max_unreadable="9")
    ).summary
    assert (by_prefix["listed"], by_time["listed"]) == (12, 24) and by_time["passed_over"] == 12
    assert set(read_rows(tmp_path / "a")["group"].to_pylist()) == {"bridge-7"}
    for filters in ({"since": "2999-01-01"}, {"prefix": "bridge 7/"}):
        with pytest.raises(StorageError, match=r"--(since|prefix) .* matches no"):
            score(config(night, model_dir, tmp_path / "c", **filters))


@pytest.mark.usefixtures("in_process")
def test_a_second_run_into_one_folder_is_refused_while_the_first_one_works(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = actors.score_rows

    def while_another_starts(*arguments: Any, **others: Any) -> Iterator[pa.Table]:
        monkeypatch.setattr(verb, "score_rows", real)
        with pytest.raises(FolderInUse, match="wait for it to end"):
            score(config(night, model_dir, tmp_path / "out"))
        yield from real(*arguments, **others)

    monkeypatch.setattr(verb, "score_rows", while_another_starts)
    assert score(config(night, model_dir, tmp_path / "out")).summary["scored"] == 33
    images = read_rows(tmp_path / "out")["image"].to_pylist()
    assert len(images) == len(set(images)) == 36


@pytest.mark.usefixtures("in_process")
def test_a_run_finishes_an_interrupted_compaction(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(config(night, model_dir, tmp_path / "out"))
    os.utime(night / "000.jpg", (0, 0))
    score(config(night, model_dir, tmp_path / "out"))
    assert pq.read_table(tmp_path / "out").num_rows == 37
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "finish_compaction", lambda folder: None)
        compact(CompactConfig(scores=str(tmp_path / "out"), quiet=True))
    assert pq.read_table(tmp_path / "out").num_rows == 37
    assert tables.read_scores(str(tmp_path / "out"), ["image"]).num_rows == 36
    again = score(config(night, model_dir, tmp_path / "out", format=("parquet", "csv"))).summary
    assert again["finished_before"] == 36 and pq.read_table(tmp_path / "out").num_rows == 36
    (csv,) = again["csv"]
    assert pacsv.read_csv(csv, parse_options=pacsv.ParseOptions(newlines_in_values=True)).num_rows == 36


@pytest.mark.usefixtures("in_process")
def test_rows_of_many_tiles_fill_a_part_by_their_bytes(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(run_table, "PART_BYTES", 1)
    score(config(night, model_dir, tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 5


@pytest.mark.usefixtures("in_process")
def test_a_folder_without_images_is_refused(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(StorageError, match=r"contains no images \(1 "):
        score(config(tmp_path, model_dir, tmp_path / "out"))


@pytest.mark.usefixtures("in_process")
def test_a_damaged_part_is_named(night: Path, model_dir: Path, tmp_path: Path) -> None:
    score(config(night, model_dir, tmp_path / "out"))
    (part,) = (tmp_path / "out").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(StorageError, match=part.name):
        score(config(night, model_dir, tmp_path / "out"))


@pytest.mark.usefixtures("in_process")
def test_the_discoveries_of_a_night_are_listed_beside_its_table(night: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", small_spec(), threshold=0.02)
    assert score(config(night, model, tmp_path / "out")).summary.get("discoveries") is None
    summary = score(config(night, model, tmp_path / "out", max_false_discovery=0.5)).summary
    rows = read_rows(tmp_path / "out").to_pandas()
    scored = rows[rows["status"] == "scored"]
    rates = false_discovery_control(scored["p_value"])
    listed = pd.read_csv(summary["discoveries_file"])
    assert len(listed) == summary["discoveries"] == (rates <= 0.5).sum() > 0
    assert set(listed["image"].str.lstrip("'")) == set(scored["image"][rates <= 0.5])
    assert listed["p_value"].is_monotonic_increasing and (listed["false_discovery_rate"] <= 0.5).all()
    assert summary["fewest_discoveries_possible"] == -(-len(scored) // 50)
    assert summary["scored"] == 0, "this night was scored by the run before"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(30, "Read-only file system", "/home/inspector/.cache/matplotlib"), "Read-only file system"),
        (ModelError("/models/site was altered."), "/models/site was altered."),
    ],
    ids=["storage", "model"],
)
def test_a_page_that_cannot_be_written_costs_neither_rows_nor_summary(
    error: Exception,
    why: str,
    night: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(config: ReportConfig) -> object:
        raise error

    monkeypatch.setattr(pages, "report", failing)
    summary = score(config(night, model_dir, tmp_path / "out", no_report=False)).summary
    assert (summary["scored"], summary["report"], summary["page_error"]) == (33, "", why)
    assert f"no page: {why}" in capsys.readouterr().err
    (written,) = (tmp_path / "out").glob("_summary-*.json")
    assert json.loads(written.read_text()) == summary


def test_matplotlib_gets_a_folder_only_where_it_finds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(matplotlib_folder.sys.modules, "matplotlib", raising=False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with matplotlib_folder.matplotlib_folder(str(tmp_path)):
        assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))

    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary folder")

    monkeypatch.setattr(matplotlib_folder.tempfile, "gettempdir", nowhere)
    with matplotlib_folder.matplotlib_folder(str(tmp_path)):
        assert Path(os.environ["MPLCONFIGDIR"]).parent == tmp_path
    assert "MPLCONFIGDIR" not in os.environ and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError), matplotlib_folder.matplotlib_folder("s3://bucket/scores"):
        pass
