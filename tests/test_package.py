"""What users install: wheels from the files of the Docker image and from the sdist, used away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import HOUSE
from docker_context import context_files, copied_files, is_ignored, read_rules, write_image_files
from image_environment import link_packages

from crackvae.images.synthetic import write_images

# Where the installed dependencies are; a .pth file that names it does not bring along the checkout.
DEPENDENCIES = Path(np.__file__).parents[1]
MAX_WHEEL_BYTES = 20_000_000
SITE_PACKAGES = Path(sysconfig.get_path("purelib", vars={"base": ""}).lstrip("/"))


@dataclass(frozen=True)
class Installed:
    """A wheel of crackvae, and the environment that it is installed in."""

    wheel: Path
    environment: Path

    def run(self, *command: object, cwd: Path) -> str:
        """Standard output of a command of the environment, which knows nothing of the checkout."""
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        program, *arguments = map(str, command)
        program = str(self.environment / "bin" / program)
        done = subprocess.run([program, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def tracked_files() -> list[str]:
    """The files of the checkout: what git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in names.split("\0") if name and (HOUSE / name).exists())


def build(kind: str, folder: Path, out: Path) -> Path:
    """Call the build backend in a folder, without a network; `kind` is wheel or sdist."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


def wheel_from_docker_context(folder: Path) -> Path:
    write_image_files(HOUSE, folder / "app")
    return build("wheel", folder / "app", folder)


def wheel_from_sdist(folder: Path) -> Path:
    for name in tracked_files():
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOUSE / name, folder / "checkout" / name)
    sdist = build("sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the container image."""
    return wheel_from_docker_context(tmp_path_factory.mktemp("docker"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that has the dependencies of this one and nothing else of it."""
    environment = tmp_path_factory.mktemp("package") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*map(str, pip), "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (environment / SITE_PACKAGES / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return Installed(wheel, environment)


def content_of(wheel: Path) -> dict[str, bytes]:
    """What a wheel installs, by the names of its files."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.package
def test_a_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    held = {name: data for name, data in content_of(wheel).items() if name.startswith("crackvae/")}
    tracked = [name for name in tracked_files() if name.startswith("crackvae/")]
    assert held == {name: (HOUSE / name).read_bytes() for name in tracked}


@pytest.mark.package
def test_the_wheel_from_the_sdist_is_that_of_the_image(wheel: Path, tmp_path: Path) -> None:
    # So that what is installed from one of them stands for both.
    assert content_of(wheel_from_sdist(tmp_path)) == content_of(wheel)


@pytest.mark.package
def test_an_installed_wheel_scores_images_and_renders_both_pages(
    installed: Installed, drawn: Path, manifest: Path, model_dir: Path, tmp_path: Path
) -> None:
    where = installed.run("python", "-c", "import crackvae; print(crackvae.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.environment)
    model = ("--model", model_dir, "--quiet")
    night = installed.run("crackvae", "score", "--images", drawn / "crack", "--out", "scores", *model, cwd=tmp_path)
    assert json.loads(night.splitlines()[-1])["scored"] == pq.read_table(tmp_path / "scores").num_rows == 60
    sets = ("--manifest", manifest, "--resamples", 100)
    installed.run("crackvae", "evaluate", *sets, "--out", "evaluation", *model, cwd=tmp_path)
    (page,) = (tmp_path / "scores").glob("_report-*.html")
    for place in (page, tmp_path / "evaluation" / "report.html"):
        assert "</html>" in place.read_text()


@pytest.mark.package
def test_an_installed_wheel_scores_and_adapts_with_the_model_that_it_holds(
    installed: Installed, tmp_path: Path
) -> None:
    assert installed.wheel.stat().st_size < MAX_WHEEL_BYTES
    write_images(tmp_path / "photographs", 11, 1, seed=5, side_px=512, workers=1)
    scored = json.loads(installed.run("crackvae", "score", "photographs", "--quiet", cwd=tmp_path).splitlines()[-1])
    assert (
        scored["scored"] == 12 and scored["model_dir"] == "builtin" and "</html>" in Path(scored["report"]).read_text()
    )
    few = ("--epochs", 1, "--max-false-alarm", 0.05)
    adapt = ("crackvae", "adapt", "--images", "photographs", "--quiet", "--model", "adapted", *few)
    adapted = json.loads(installed.run(*adapt, cwd=tmp_path).splitlines()[-1])
    assert sum(adapted["tiles"].values()) == 12 * 9 and min(adapted["tiles"].values()) > 0
    assert (adapted["digest"] == scored["model"]) == (adapted["choice"]["kept"] == "starting")
    flags = ("--model", "adapted", "--out", "adapted-scores", "--quiet")
    again = json.loads(installed.run("crackvae", "score", "photographs", *flags, cwd=tmp_path).splitlines()[-1])
    assert again["threshold"] == adapted["threshold"] and "</html>" in Path(again["report"]).read_text()


def test_the_environment_that_stands_for_the_image_holds_what_is_required_and_nothing_of_the_tests(
    tmp_path: Path,
) -> None:
    link_packages(tmp_path)
    linked = {path.name for path in tmp_path.iterdir()}
    assert linked >= {"ray", "torch", "pip", "aiohttp"}, "aiohttp: of ray[default]"
    assert not linked & {"crackvae", "pytest", "pytest.py", "moto", "pillow_heif"} and (tmp_path / "torch").is_dir()


def test_every_file_of_the_package_is_in_the_image_and_no_compiled_one() -> None:
    expected = {name for name in tracked_files() if name.startswith(("crackvae/", "jobs/"))}
    copied = copied_files(HOUSE)
    assert {name for name in copied if name.startswith(("crackvae/", "jobs/"))} == expected
    assert all(name == source for name, source in copied.items())


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("crackvae/report/templates/night.html", False),
        ("crackvae/__pycache__/errors.cpython-311.pyc", True),
        ("crackvae/report/__pycache__/page.txt", True),
        ("crackvae/stray.pyc", True),
        ("jobs/score.py", False),
        ("jobs/night.jpg", True),
        (".git/config", True),
        ("data/night/0001.jpg", True),
        ("tests/conftest.py", True),
    ],
)
def test_the_docker_context_holds_the_package_and_nothing_private(path: str, ignored: bool) -> None:
    assert is_ignored(path, read_rules((HOUSE / ".dockerignore").read_text())) == ignored


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README.md", "README-secret.md", True),
        ("!README.md\n*.md", "README.md", True),
        ("*/temp*", "a/temporary.txt", True),
        ("*/temp*", "a/b/temporary.txt", False),
        ("**/*.go", "main.go", True),
        ("**/*.go", "a/b/main.go", True),
        ("temp?", "tempa", True),
        ("temp?", "temp", False),
        ("# temp\n\n/foo/bar/", "foo/bar/deep/file", True),
        ("a/**", "a/b/c", True),
        ("a/**", "ab", False),
    ],
)
def test_rules_are_read_as_docker_reads_them(rules: str, path: str, ignored: bool) -> None:
    assert is_ignored(path, read_rules(rules)) == ignored


def test_a_copy_line_for_a_file_outside_of_the_context_fails(tmp_path: Path) -> None:
    for name in ("kept.txt", "left-out.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("*\n!kept.txt\n")
    (tmp_path / "Dockerfile").write_text("COPY kept.txt ./\n")
    assert context_files(tmp_path) == ["kept.txt"] and copied_files(tmp_path, "Dockerfile") == {"kept.txt": "kept.txt"}
    (tmp_path / "Dockerfile").write_text("COPY kept.txt left-out.txt ./\n")
    with pytest.raises(FileNotFoundError, match=r"left-out.txt is not in the build context"):
        copied_files(tmp_path, "Dockerfile")
