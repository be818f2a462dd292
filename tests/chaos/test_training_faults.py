"""SIGKILL and SIGSTOP at random moments of a training on Ray: it ends with the weights of an undisturbed one."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from heads import STUCK_S, command
from ray_head import Head
from rounds import Played

from crackvae.errors import ModelError
from crackvae.model.artifact import load_model
from crackvae.training.checkpoints import Checkpoints

RUN = """
import sys
from crackvae import console
from crackvae.cli import main
console.SILENCE_S = 4.0
sys.exit(main(sys.argv[1:]))
"""
EPOCHS = 20
SMALL = ["--input-px=32", "--channels=4,8", "--latent-dim=4", "--segmenter=4,8,8,8", "--backbone=none"]
SMALL += ["--tile-px=64", "--stride-px=48"]
SETTINGS = [f"--epochs={EPOCHS}", "--workers=2", "--batch=16", "--precision=fp32", "--learning-rate=1e-3"]
# The kill comes at most this long [s] after the first checkpoint of a training that takes some seconds.
LATE_S = 3.0

pytestmark = [pytest.mark.ray, pytest.mark.long]


@dataclass(frozen=True)
class Training:
    """One training: the same command whenever it is run again."""

    manifest: Path
    model: Path
    head: Head

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(f"{self.model}.training")

    def flags(self, *more: object) -> list[object]:
        return ["train", "--manifest", self.manifest, "--model", self.model, *SMALL, *SETTINGS, *more]

    @property
    def log(self) -> Path:
        return self.model.with_suffix(".log")

    def finish(self, *more: object) -> None:
        with command(self.flags(*more), self.log, self.head.address, RUN) as process:
            assert process.wait(STUCK_S) == 0, self.log.read_text()

    def require_no_model(self) -> None:
        with pytest.raises(ModelError):
            load_model(str(self.model))

    def require_same_model(self, fault: str, wanted: str, played: Played, started: float) -> None:
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        counts = {"lost": 0, "twice": 0, "wrong": int(load_model(str(self.model)).digest != wanted)}
        played.require_clean("process", fault, counts, since=started)
        assert sorted(path.name for path in self.model.parent.iterdir()) == ["model", "model.log"]


@pytest.fixture(scope="module")
def wanted(manifest: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the model of an undisturbed training."""
    undisturbed = Training(manifest, tmp_path_factory.mktemp("undisturbed") / "model", head)
    undisturbed.finish()
    return load_model(str(undisturbed.model)).digest


@pytest.fixture
def training(manifest: Path, head: Head, tmp_path: Path) -> Training:
    return Training(manifest, tmp_path / "model", head)


def wait_for_an_epoch(training: Training) -> None:
    end = time.monotonic() + STUCK_S
    while not training.checkpoints.epochs():
        assert time.monotonic() < end, training.log.read_text()
        time.sleep(0.02)


@pytest.mark.parametrize("number", range(2))
def test_a_training_whose_driver_is_killed_resumes_to_the_same_weights(
    number: int, training: Training, wanted: str, played: Played
) -> None:
    with command(training.flags(), training.log, training.head.address, RUN) as process:
        wait_for_an_epoch(training)
        time.sleep(random.Random(number).uniform(0, LATE_S))
        assert process.poll() is None, training.log.read_text()
        process.kill()
    epochs = training.checkpoints.epochs()
    print(f"round {number}: killed after epoch {epochs[-1]} of {EPOCHS}")
    training.require_no_model()
    started = time.monotonic()
    training.finish("--resume", training.checkpoints.folder)
    training.require_same_model("SIGKILL of the driver while training, then --resume", wanted, played, started)


@pytest.mark.parametrize("number", range(2))
def test_a_training_whose_worker_is_killed_recovers_to_the_same_weights(
    number: int, training: Training, wanted: str, played: Played
) -> None:
    generator = random.Random(number)
    with command(training.flags(), training.log, training.head.address, RUN) as process:
        wait_for_an_epoch(training)
        time.sleep(generator.uniform(0, LATE_S))
        workers = training.head.workers("RayTrainWorker")
        assert workers and process.poll() is None, training.log.read_text()
        generator.choice(workers).kill()
        started = time.monotonic()
        training.require_no_model()
        assert process.wait(STUCK_S) == 0, training.log.read_text()
    assert "restarted with 2 worker(s), after epoch" in training.log.read_text()
    training.require_same_model("SIGKILL of a worker while training", wanted, played, started)


def test_a_worker_that_is_stopped_is_reported_and_training_continues_to_the_same_weights(
    training: Training, wanted: str, played: Played
) -> None:
    with command(training.flags(), training.log, training.head.address, RUN) as process:
        wait_for_an_epoch(training)
        stopped: list[psutil.Process] = training.head.workers("RayTrainWorker")[:1]
        assert stopped and process.poll() is None, training.log.read_text()
        stopped[0].suspend()
        time.sleep(10)
        assert "no message from the workers" in training.log.read_text()
        training.require_no_model()
        started = time.monotonic()
        stopped[0].resume()
        assert process.wait(STUCK_S) == 0, training.log.read_text()
    training.require_same_model("SIGSTOP of a worker while training", wanted, played, started)
