"""Structural rules of the package: layout, direction of imports, homes of heavy libraries, docstrings."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import HOUSE

PACKAGE = HOUSE / "crackvae"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [  # a package or top-level module may import from the layers above its own line, never from below or beside
    {"errors", "console", "cores", "metrics", "ray_environment"},
    {"config", "results"},
    {"session", "storage"},
    {"images", "tracing"},
    {"model"},
    {"monitoring", "reports"},
    {"training", "scoring"},
    {"changes", "evaluation", "exports", "streaming", "reviewing", "api", "readers"},
    {"nights", "cli"},
]
ONLY_IN = {  # library: the modules that may import it
    "ray": {
        "session",
        "scoring.verb",
        "scoring.actors",
        "training.fit",
        "training.run",
        "training.starting",
        "training.tile_loader",
        "monitoring.telemetry",
    },
    "cv2": {"images.registration", "images.registration.features", "images.places", "changes.comparison"},
    "PIL": {
        "images.decoding",
        "images.decoding.masks",
        "images.decoding.transparency",
        "images.metadata.exif",
        "images.tiles",
        "images.manifest.duplicates",
        "images.synthetic",
        "images.drawing",
        "training.synthetic_cracks.blemishes",
        "training.synthetic_cracks.drawings",
        "reports.views",
        "exports.pdf_pictures",
        "reports.night_page.findings",
        "scoring.findings",
    },
    "defusedxml": {"images.metadata.exif"},
    "reportlab": {"exports.pdf", "exports.pdf_pictures", "exports.pdf_text"},
    "pillow_heif": {"images.decoding.camera_formats"},
    "rawpy": {"images.decoding.camera_formats"},
    "av": {"images.decoding.video"},
    "tifffile": {"images.decoding.tiff", "images.decoding.windows"},
    "pyproj": {"images.decoding.geotransform"},
    "imagecodecs": {"images.decoding.jpegs"},
    "jinja2": {"reports.page"},
    "starlette": {"reviewing.app", "streaming.status"},
    "uvicorn": {"reviewing.server", "streaming.status"},
    "matplotlib": {"reports.charts", "reports.charts.curves", "reports.charts.place_map"},
    "skimage": {"tracing.skeleton"},
    "torch": {
        "images.tiles",
        "model.network",
        "model.segmenter",
        "model.backbone",
        "model.artifact",
        "model.heads",
        "model.inference",
        "model.export",
        "model.runtime.bfloat16",
        "model.runtime.graph_cache",
        "model.runtime.onnx",
        "model.runtime",
        "cli.doctor",
        "scoring.actors",
        "training.fit",
        "training.learn.last_layer",
        "training.loop",
        "training.model_writer",
        "training.run",
        "training.state",
        "training.synthetic_cracks",
        "training.synthetic_cracks.filters",
        "training.validation",
    },
    "safetensors": {"model.artifact", "model.backbone"},
    "onnx": {"model.runtime.onnx", "model.runtime", "model.export"},
    "onnxruntime": {"model.runtime.ort"},
    "pyarrow.fs": {
        "storage.uris",
        "storage.filesystems",
        "storage.fileio",
        "storage.listing.walk",
        "storage.listing.patterns",
    },
    "zipfile": {"storage.archive", "storage.names.zip_names"},
    "pyarrow.parquet": {"storage.tables", "storage.tables.inventory"},
    "argparse": {"cli.parser"},
}
MAX_TOP_MODULES, MAX_LINES = 12, 350


def name_of(path: Path) -> str:
    """Dotted name of a module below the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: Path) -> list[str]:
    """Names that a module imports; `from package import a, b` as package.a and package.b where these are modules."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                names.append(whole if whole.removeprefix("crackvae.") in NAMES else module)
    return names


def imports_of(path: Path) -> set[str]:
    """The crackvae modules that a module imports, less the package itself, which holds the version."""
    return {name.removeprefix("crackvae.") for name in imported(path) if name.startswith("crackvae.")}


def level_of(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name.split(".")[0] in layer)


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) not in ("", "__main__")], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    own = name_of(path).split(".")[0]
    for name in imports_of(path):
        # cli imports the modules of verbs by name when they are called.
        assert name.split(".")[0] == own or level_of(name) < level_of(own), f"{name_of(path)} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    for name in imported(path):
        for limited, homes in ONLY_IN.items():
            if name == limited or name.startswith(f"{limited}."):
                assert name_of(path) in homes, f"{limited} belongs in {sorted(homes)}, not in {name_of(path)}"


def test_modules_import_without_a_cycle() -> None:
    order = list(TopologicalSorter({name_of(path): imports_of(path) for path in MODULES}).static_order())
    assert order.index("errors") < order.index("cli")


def test_the_tree_stays_small_enough_to_read() -> None:
    top = list(PACKAGE.glob("*.py"))
    long = {name_of(path): n for path in MODULES if (n := len(path.read_text().splitlines())) > MAX_LINES}
    assert len(top) <= MAX_TOP_MODULES and not long


def test_every_package_and_top_level_module_has_a_layer() -> None:
    assert {name.split(".")[0] for name in NAMES} - {"", "__main__"} == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and len(node.body) > 1:
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            raises_again = isinstance(node.body[-1], ast.Raise)
            assert caught not in ("everything", "Exception", "BaseException") or raises_again, f"{path.name}: {caught}"


def test_the_guide_for_contributors_names_the_layers_and_every_package() -> None:
    text = (HOUSE / "CONTRIBUTING.md").read_text()
    (block,) = (one for one in text.split("```") if one.lstrip().startswith("errors,"))
    assert [set(re.findall(r"\w+", layer)) for layer in block.split("<")] == LAYERS
    named = {name for row in re.findall(r"^\| (`.*?`) \|", text, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_each_verb_that_can_run_on_a_cluster_has_a_job() -> None:
    from crackvae.cli import VERBS

    assert {path.stem for path in (HOUSE / "jobs").glob("*.py")} == set(VERBS) - {
        "info",
        "doctor",
        "live",
        "review",
        "promote",
        "rollback",
    }
