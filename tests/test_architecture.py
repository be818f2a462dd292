"""Rules of the house that no reader should have to keep in mind."""

import ast
from pathlib import Path

import pytest
from conftest import HOUSE

MODULES = sorted((HOUSE / "crackvae").glob("*.py"))
LAYERS = [  # a module may import from the layers above its own line, never from below or beside
    {"errors", "console", "memory"},
    {"config", "places", "imaging", "tiles", "synthetic", "metrics", "progress", "measure", "charts"},
    {"archive"},
    {"storage"},
    {"duplicates", "tables", "lock", "verdicts"},
    {"listing", "resume", "compaction"},
    {"groups"},
    {"manifest", "model", "calibration", "damage"},
    {"graph"},
    {"runtime"},
    {"state"},
    {"scoring", "session", "learning", "histograms", "judge", "checkpoints"},
    {"watching", "findings", "pictures", "feeding", "export"},
    {"page", "drift", "runs"},
    {"night", "gallery"},
    {"report"},
    {"pipeline", "training"},
    {"evaluation", "nightly"},
    {"demo"},
    {"cli"},
]
ONLY_IN = {
    "ray": {"session", "pipeline", "training", "feeding", "watching"},
    "PIL": {"imaging", "tiles", "duplicates", "synthetic", "pictures"},
    "jinja2": {"page"},
    "matplotlib": {"charts"},
    "skimage": {"measure", "pictures"},
    "torch": {
        "tiles",
        "model",
        "graph",
        "runtime",
        "export",
        "damage",
        "scoring",
        "state",
        "learning",
        "pipeline",
        "training",
    },
    "onnx": {"graph", "runtime", "export"},
    "onnxruntime": {"runtime", "export"},
    "pyarrow.fs": {"places", "storage", "listing"},
    "zipfile": {"archive"},
    "pyarrow.parquet": {"tables"},
    "argparse": {"cli"},
}


def imported(path: Path) -> list[str]:
    """Names that a module imports, `from crackvae import a, b` as crackvae.a and crackvae.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "crackvae":
            names += [f"crackvae.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "__init__"], ids=lambda path: path.stem)
def test_imports_point_one_way(path: Path) -> None:
    level = next(number for number, layer in enumerate(LAYERS) if path.stem in layer)
    lower = set().union(*LAYERS[:level])
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "crackvae" and rest:
            # cli imports the modules of verbs by name when they are called; the package itself holds the version.
            assert rest.split(".")[0] in lower, f"{path.name} may not import {name}"
        for limited, homes in ONLY_IN.items():
            if name == limited or name.startswith(f"{limited}."):
                assert path.stem in homes, f"{limited} belongs in {sorted(homes)}, not in {path.name}"


def test_every_module_has_a_room_in_the_house() -> None:
    assert {path.stem for path in MODULES} - {"__init__"} == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_public_name_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and len(node.body) > 1:
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            raises_again = isinstance(node.body[-1], ast.Raise)
            assert caught not in ("everything", "Exception", "BaseException") or raises_again, f"{path.name}: {caught}"


def test_each_verb_that_can_run_on_a_cluster_has_a_job() -> None:
    from crackvae.cli import VERBS

    assert {path.stem for path in (HOUSE / "jobs").glob("*.py")} == set(VERBS)
