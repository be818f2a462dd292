"""Parts of the benchmarks that would otherwise fail after hours, or report figures of something else."""

import importlib
import subprocess
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from conftest import HOUSE
from PIL import Image

from crackvae.storage import tables


def benchmark(name: str) -> ModuleType:
    """A module of the folder benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOUSE / "benchmarks")
        return importlib.import_module(name)


def test_the_rows_of_the_page_benchmark_are_a_scores_table(tmp_path: Path) -> None:
    benchmark("page").write_rows(tmp_path, 0, 0, 20, 20, ["/a.jpg", "/b.jpg"], "digest")
    rows = tables.read_scores(str(tmp_path), tables.SCORES_SCHEMA.names)
    assert rows.schema == tables.SCORES_SCHEMA and rows.num_rows == 20
    assert {"/a.jpg", "/b.jpg"} < set(rows["image"].to_pylist())


def test_megapixels_are_those_of_each_image(tmp_path: Path) -> None:
    sizes = [(227, 227), (256, 256), (400, 100)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("L", size).save(path)
    assert benchmark("edge").megapixels(paths) == pytest.approx((227**2 + 256**2 + 40_000) / 1e6)


def test_a_result_says_whether_its_commit_is_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = benchmark("record")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "code.py").write_text("1")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    assert "dirty" not in record.write_result("a", {}).read_text()
    (tmp_path / "code.py").write_text("2")
    assert '-dirty"' in record.write_result("a", {}).read_text()


def test_another_model_on_a_new_site_is_evaluated_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    concrete, evaluated = benchmark("concrete"), []

    def evaluate(*, model: str, out: Path, **_: Any) -> None:
        evaluated.append(model)
        out.mkdir(parents=True)
        pd.DataFrame({"group": ["walls/a"], "model": [model]}).to_parquet(out / "evaluation.parquet")

    monkeypatch.setattr(concrete.crackvae, "evaluate", evaluate)
    monkeypatch.setattr(concrete, "visible_cracks", lambda data: set())
    monkeypatch.setattr(concrete, "site_tiles", lambda rows, visible: rows)
    monkeypatch.setattr(concrete, "written", lambda rows, folder: folder / "manifest.parquet")
    monkeypatch.setattr(concrete, "figures_of", lambda scored, visible: {"walls": {"labels": 0, "of": scored.model[0]}})
    monkeypatch.setattr(concrete, "promises_kept", lambda tiles, draws: {})
    for model in ("one", "two", "one"):
        options = Namespace(work=tmp_path, data=tmp_path, model=model, draws=1)
        assert concrete.new_site(pd.DataFrame(), options, f"digest of {model}")["walls"]["of"] == model
    assert evaluated == ["one", "two"]
