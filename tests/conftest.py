"""Shared by tests: synthetic images, a small untrained model, object storage in memory, and one Ray head."""

import gc
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch
from PIL import Image
from ray_head import Head, ray_head

from crackvae import evaluation
from crackvae.api import VERBS
from crackvae.config import EvaluateConfig, PartitionConfig, ScoreConfig
from crackvae.images.manifest import partition
from crackvae.images.synthetic import draw_image, write_images
from crackvae.model import builtin, calibration
from crackvae.model.artifact import model_digest, model_files
from crackvae.model.calibration import Calibration
from crackvae.model.network import Network
from crackvae.model.runtime import graph_cache
from crackvae.model.spec import ModelSpec
from crackvae.nights import nightly
from crackvae.scoring import actors, verb
from crackvae.storage import fileio, filesystems, tables
from crackvae.training import adapt, driver, fit, learn, run, starting, tile_loader

# The networks of tests are small: on a busy machine two threads wait for each other longer than one thread computes.
torch.set_num_threads(1)
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Exported graphs of this test run; the user's own stay as they are.
_GRAPHS = tempfile.TemporaryDirectory(prefix="crackvae-graphs-")
os.environ[graph_cache.VARIABLE] = _GRAPHS.name

HOUSE = Path(__file__).parent.parent
# The verbs whose import has brought Matplotlib along, found out here because tests import it too.
WITH_MATPLOTLIB = [name for name, one in VERBS.items() if import_module(one.module) and "matplotlib" in sys.modules]

# Settings of a Ray head for tests that lose a node: by its own, half a minute passes before a lost node counts as dead.
SOON_DEAD = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}
# Every fault has a short round; `make chaos` runs many rounds and writes their results to benchmarks/results/.
IS_LONG = os.environ.get("CRACKVAE_CHAOS") == "long"
# Small enough to train and score in milliseconds; everything else is as in a real model.
SMALL = {"input_px": 32, "channels": (4, 8), "latent_dim": 4, "segmenter": (4, 8, 8, 8), "backbone": "none"}


def small_spec(**changes: object) -> ModelSpec:
    values = {
        "tile_px": 64,
        "stride_px": 48,
        "head": "evidence",
        "recipe": "repair",
        "beta": 1e-6,
        "seed": 0,
        "manifest": "",
        "leaky": False,
    }
    return ModelSpec(**(SMALL | values | changes))


def write_model(folder: Path, spec: ModelSpec, threshold: float = 0.02, paints: float | None = None) -> Path:
    """A model directory with random weights and an invented calibration.

    Args:
        paints: grey level of every pixel of a reconstruction, instead of a random one.
    """
    torch.manual_seed(spec.seed)
    network = Network(spec)
    if paints is not None:
        torch.nn.init.zeros_(network.vae.decoder[-2].weight)
        torch.nn.init.constant_(network.vae.decoder[-2].bias, float(np.log(paints / (1 - paints))))
    weights = network.state_dict()
    scores = np.linspace(0, 0.04, 99, dtype=np.float32)
    made = Calibration(scores, 99, "made up", threshold, model_digest(spec, weights), spec.leaky)
    files = {calibration.FILE: calibration.calibration_file(made), **model_files(spec, weights, {})}
    fileio.write_folder(str(folder), files)
    return folder


def read_rows(out: Path) -> pa.Table:
    """The whole scores table in a folder, sorted by image."""
    places = [place for parts in tables.list_parts(str(out)).values() for place in parts]
    return tables.read_parts(places, tables.SCORES_SCHEMA.names).sort_by("image")


def free_ports(n: int) -> list[int]:
    """Free TCP ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


# A fixture that starts something, and the marker of the tests that use it.
MARKER_OF = {
    "head": "ray",
    "cluster": "ray",
    "browser": "browser",
    "running": "server",  # S3
    "proxy": "server",  # S3 behind a proxy that injects faults
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use; drop the long round of faults except in `make chaos`."""
    left_out = [] if IS_LONG else [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        for fixture, marker in MARKER_OF.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        if "chaos" in item.path.parts:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What modules hold lives as long as the tests: no collection of garbage goes through it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 sound and 60 cracked drawn images of 64 px."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    write_images(folder, 240, 60, side_px=64, workers=1)
    return folder


@pytest.fixture(scope="session")
def manifest(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the drawn images with a small external set."""
    out = tmp_path_factory.mktemp("data")
    partition(PartitionConfig(images=str(drawn), out=str(out), external=(20, 20), quiet=True))
    return out / "manifest.parquet"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", small_spec())


@pytest.fixture
def builtin_model(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small model in the place of the built-in one."""
    monkeypatch.setattr(builtin, "FOLDER", str(model_dir))
    return model_dir


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> pafs.FileSystem:
    """Object storage in memory, with one bucket that stands for every address."""
    filesystem = pafs._MockFileSystem()
    filesystem.create_dir("bucket")
    monkeypatch.setattr(filesystems, "_bucket", lambda address, options, defaults: (filesystem, "bucket"))
    return filesystem


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(filesystems.time, "sleep", slept.append)
    return slept


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in this process instead of on Ray: the same results without the seconds that Ray takes to start."""

    score_in_process(monkeypatch)


def score_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The effect of the fixture `in_process`, for fixtures of a wider scope."""

    monkeypatch.setattr(actors, "needs_ray", lambda images, config: False)
    monkeypatch.setattr(nightly, "ray_session", lambda config: nullcontext())


class _Here:
    """A Ray actor or task as a plain call in this process."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def options(self, **_: object) -> "_Here":
        return self

    def remote(self, *arguments: Any) -> Any:
        result = self.made(*arguments)
        return _Here(result) if isinstance(self.made, type) else result

    def __getattr__(self, name: str) -> "_Here":
        return _Here(getattr(self.made, name))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: waking a second one takes longer than a step of a small network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train_in_process(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process: Ray Train's in-process mode, with Ray's actors and tasks as plain calls."""
    node = {"Alive": True, "Resources": {"CPU": 2.0, "object_store_memory": 1e9}}
    here = SimpleNamespace(
        get=lambda value: value,
        put=lambda value: value,
        kill=lambda actor: None,
        nodes=lambda: [node],
        cluster_resources=lambda: node["Resources"],
        remote=lambda *made, **_: _Here(made[0]) if made else _Here,
        train=fit.ray.train,
    )
    for module in (fit, run, starting, tile_loader):
        monkeypatch.setattr(module, "ray", here)
    for module in (fit, tile_loader):
        monkeypatch.setattr(module, "on_this_node", dict)
    for verb_module in (adapt, driver, learn):
        monkeypatch.setattr(verb_module, "ray_session", lambda config: nullcontext())
    for verb_module in (adapt, driver):
        monkeypatch.setattr(verb_module, "require_resources", lambda workers, gpu: None)
    monkeypatch.setattr(fit, "_scaling", lambda plan: fit.ScalingConfig(num_workers=0))
    monkeypatch.setattr(tile_loader, "decode_all", lambda images, decode, per_block: decode(images))


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """The one Ray head of the test run: two CPUs of this machine, and a GPU in name only."""
    with ray_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture(scope="session")
def ray_session(head: Head) -> Iterator[None]:
    """This process as a driver on the one Ray head."""
    import ray

    ray.init(address=head.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def played() -> Iterator[Any]:
    """The rounds of faults of this test run: `require_clean()` records one; `notes` holds other figures."""
    import rounds  # lies beside the tests of faults, which alone ask for this

    all_of_them = rounds.Played()
    yield all_of_them
    if IS_LONG:
        print(f"\n{all_of_them.write()}")


# A path that is a script tag, names that break out of attributes, turn around, or fill a whole name of 255 bytes.
HOSTILE_NAMES = (
    "<script>alert(1)</script>.jpg",
    "a\"b'c<img src=x onerror=alert(2)>.jpg",
    "turned\u202egpj.exe.jpg",
    "ß" * 125 + "x.jpg",
    "=1+1,line\nbreak.jpg",
    "tab\tcarriage\rreturn.jpg",
    "{{ 7*7 }}&amp;.jpg",
)


@pytest.fixture(scope="session")
def scored_night(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of a night of 60 drawn images in three groups, hostile names, two photographs and two broken files.

    The images lie in `images` beside the folder that is returned.
    """
    folder = tmp_path_factory.mktemp("night")
    model = write_model(
        folder / "model", small_spec(head="mse"), paints=0.7
    )  # of which the threshold flags some and passes some
    night = folder / "images"
    pictures = sorted((drawn / "crack").iterdir())[:30] + sorted((drawn / "non_crack").iterdir())[:30]
    places = [f"bridge-{n % 3}/{n:03d}.jpg" for n in range(len(pictures))] + [f"odd/{name}" for name in HOSTILE_NAMES]
    for place, picture in zip(places, pictures + pictures[: len(HOSTILE_NAMES)], strict=True):
        (night / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, night / place)
    (night / "bridge-1" / "empty.jpg").write_bytes(b"")
    (night / "bridge-2" / "<b>text.jpg").write_text("not an image")
    for number in range(2):
        surface, _ = draw_image(5, number, True, 230)
        Image.fromarray(surface[: 160 + 60 * number]).save(night / "bridge-0" / f"photograph-{number}.png")
    with pytest.MonkeyPatch.context() as monkeypatch:
        score_in_process(monkeypatch)
        config = ScoreConfig(images=str(night), model=str(model), out=str(folder / "scores"), quiet=True)
        verb.score(config)
    return folder / "scores"


@pytest.fixture(scope="session")
def judged(manifest: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an evaluation, with its page."""
    out = tmp_path_factory.mktemp("judged") / "evaluation"
    config = EvaluateConfig(manifest=str(manifest), model=str(model_dir), out=str(out), resamples=100, quiet=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        score_in_process(monkeypatch)
        evaluation.evaluate(config)
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system; without it the test is skipped, or fails where CRACKVAE_NEEDS_BROWSER is set."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium and os.environ.get("CRACKVAE_NEEDS_BROWSER"):
        pytest.fail("no Chromium found, and CRACKVAE_NEEDS_BROWSER is set")
    if not chromium:
        pytest.skip("no Chromium found: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
