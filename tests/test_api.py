"""The public face: functions with the signature and documentation of their settings, typed results, typed errors."""

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import HOUSE, WITH_MATPLOTLIB

import crackvae
from crackvae import api


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=HOUSE)
    return done.stdout.strip()


def test_importing_the_package_and_reading_its_help_loads_neither_ray_torch_nor_pandas() -> None:
    program = (
        "import pydoc, sys, crackvae\n"
        "for name in set(crackvae.__all__) - {'__version__', 'synthetic', 'tables'}:\n"
        "    pydoc.render_doc(getattr(crackvae, name))\n"
        "print(sorted({'ray', 'torch', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    assert run_python(program) == "[]"


def test_every_public_name_exists_and_is_listed_by_dir() -> None:
    assert all(hasattr(crackvae, name) for name in crackvae.__all__)
    assert set(crackvae.__all__) <= set(dir(crackvae)) and set(api.VERBS) <= set(crackvae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = crackvae.scores


def test_no_submodule_has_the_name_of_a_public_function() -> None:
    # Importing such a submodule would replace the function as an attribute of the package.
    for name in crackvae.__all__:
        assert importlib.util.find_spec(f"crackvae.{name}") is None


def test_the_two_public_modules_are_importable_from_the_package() -> None:
    program = (
        "import sys; from crackvae import synthetic, tables; import numpy as np\n"
        "surface = synthetic.draw_concrete(np.random.default_rng(0), 32, 32)\n"
        "print(synthetic.draw_crack(np.random.default_rng(1), surface)[0].shape, tables.list_parts('absent'))\n"
        "print(sorted({'ray', 'torch', 'pandas'} & set(sys.modules)))"
    )
    assert run_python(program).splitlines() == ["(32, 32, 3) {}", "[]"]


@pytest.mark.parametrize("name", api.VERBS)
def test_a_function_has_a_parameter_for_every_setting_with_its_default(name: str) -> None:
    signature = inspect.signature(getattr(crackvae, name))
    settings = {one.name: one for one in fields(api.VERBS[name].config)}
    assert signature.parameters.keys() == settings.keys()
    assert signature.return_annotation is api.VERBS[name].result
    for parameter in signature.parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert (parameter.default is inspect.Parameter.empty) == api.is_required(settings[parameter.name])
        assert f"    {parameter.name}: " in getattr(crackvae, name).__doc__


@pytest.mark.parametrize("name", api.VERBS)
def test_a_docstring_has_all_sections_and_names_arguments_instead_of_flags(name: str) -> None:
    doc = getattr(crackvae, name).__doc__
    assert [line for line in doc.splitlines() if line.endswith(":") and line[0].isalpha()] == [
        "Args:",
        "Returns:",
        "Raises:",
        "Example:",
    ]
    assert "--" not in doc and "%%" not in doc and f"crackvae.{name}(" in doc


@pytest.mark.parametrize("name", api.VERBS)
def test_every_verb_uses_the_s3_server_of_its_settings(name: str) -> None:
    verb = getattr(importlib.import_module(api.VERBS[name].module), name)
    with pytest.raises(crackvae.ConfigError, match="host:9000"):
        verb(SimpleNamespace(s3_endpoint="host:9000"))


def test_a_call_returns_a_typed_frozen_result(drawn: Path, tmp_path: Path) -> None:
    split = crackvae.partition(images=drawn, out=tmp_path, external=[0, 0], quiet=True)
    assert isinstance(split, crackvae.PartitionResult) and isinstance(split, crackvae.Result)
    assert (split.manifest, split.images, split.leaky) == (str(tmp_path / "manifest.parquet"), 300, False)
    assert split.summary["verb"] == "partition" and "images" in split.tables
    with pytest.raises(FrozenInstanceError):
        split.images = 0


@pytest.mark.usefixtures("in_process")
def test_score_returns_its_run_and_read_scores_its_rows(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    environment, endpoint = dict(os.environ), "http://127.0.0.1:9"
    night = crackvae.score(
        images=drawn / "crack",
        model=model_dir,
        out=tmp_path / "scores",
        s3_endpoint=endpoint,  # used by s3:// paths alone
        no_report=True,
        quiet=True,
    )
    assert dict(os.environ) == environment
    assert (night.images, night.scored, night.finished_before, night.page) == (60, 60, 0, "")
    rows = crackvae.read_scores(night.out, ["image", "run", "flagged"])
    assert isinstance(rows, pa.Table) and rows.num_rows == 60
    assert set(rows["run"].to_pylist()) == {night.run} and sum(rows["flagged"].to_pylist()) == night.flagged
    assert crackvae.read_scores(tmp_path / "scores").column_names[:2] == ["image", "group"]
    for columns in (iter(["image", "score"]), np.array(["image", "score"]), ("image", "score")):
        assert crackvae.read_scores(night.out, columns).column_names == ["image", "score"]
    assert crackvae.read_scores(night.out, []).num_columns == crackvae.read_findings(night.out, []).num_columns == 0
    with pytest.raises(crackvae.ConfigError, match=r"no column 'flaged' \(did you mean flagged\?\)"):
        crackvae.read_scores(night.out, ["flaged"])
    with pytest.raises(crackvae.ConfigError, match=r"columns='image' must be a list: \['image'\]\."):
        crackvae.read_scores(night.out, "image")


def test_reading_scores_where_there_are_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(crackvae.StorageError, match="holds no scores table"):
        crackvae.read_scores(tmp_path)


@pytest.mark.usefixtures("in_process")
def test_a_broken_limit_carries_the_typed_result(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(crackvae.LimitBroken) as caught:
        crackvae.score(images=tmp_path, model=model_dir, out=tmp_path / "out", no_report=True, quiet=True)
    assert isinstance(caught.value.outcome, crackvae.ScoreResult) and caught.value.outcome.unreadable == 1


def test_an_argument_that_does_not_exist_or_is_missing_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"score\(\) got an unexpected .* 'imagse' \(did you mean images\?\)"):
        crackvae.score(imagse="x")
    with pytest.raises(TypeError, match=r"score\(\) is missing the keyword argument 'images'"):
        crackvae.score(model="x", out="y")


def test_an_invalid_value_is_a_config_error() -> None:
    with pytest.raises(crackvae.ConfigError, match="workers=0 must be 1 or more"):
        crackvae.score(images="x", model="m", out="y", workers=0)
    with pytest.raises(crackvae.CrackvaeError, match="head=best is not one of mse, evidence"):
        crackvae.train(manifest="x", model="m", head="best")


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("score", {"images": None}, "images=None must be a list"),
        ("score", {"images": ["a", None]}, "must be text"),
        ("score", {"images": "a", "max_unreadable": None}, "max_unreadable=None must be text"),
        ("report", {"scores": "s", "out": "o", "worst": None}, "worst=None must be a whole number"),
        ("review", {"scores": "s", "reviewer": "a" * 81}, "at most 80 characters"),
    ],
)
def test_none_is_a_value_only_of_a_setting_that_may_be_left_open(name: str, values: dict[str, Any], why: str) -> None:
    with pytest.raises(crackvae.ConfigError, match=why):
        getattr(crackvae, name)(**values)
    assert api.settings_of("score", {"images": "a", "every": None, "mm_per_px": None}).every is None  # type: ignore[attr-defined]
    assert api.settings_of("review", {"scores": "s", "reviewer": " anna "}).reviewer == "anna"  # type: ignore[attr-defined]


def test_a_preset_applies_to_a_call_as_to_the_command() -> None:
    settings = api.settings_of("train", {"manifest": "x", "model": "m", "preset": "published", "epochs": 2})
    assert (settings.head, settings.segmenter, settings.epochs) == ("mse", (), 2)


def test_python_m_crackvae_is_the_command() -> None:
    command = [sys.executable, "-m", "crackvae", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HOUSE)
    assert done.stdout == f"crackvae {crackvae.__version__}\n"


def test_the_api_page_and_the_type_stub_are_those_that_make_api_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_api", HOUSE / "docs" / "make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    for path, text in make_api.outputs().items():
        assert path.read_text() == text, f"{path.name} is out of date: run python docs/make_api.py"


def test_no_verb_imports_matplotlib_before_there_is_a_folder_for_its_cache() -> None:
    # Where neither the home folder nor a temporary one can be written, its import fails.
    assert WITH_MATPLOTLIB == []
