"""No verb opens a connection that the user did not name: every socket call traced, with and without Ray."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE

STRACE = ("strace", "-f", "-q", "-s", "200", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg")
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
# Ray asks the machine, not the network: a UDP socket that never sends tells which of its addresses leads outside.
ASKED_OF_THE_KERNEL = "8.8.8.8"
# The metadata service of a cloud's own host: Ray's head asks it (and looks its name up) at its start, whatever is set.
METADATA_ADDRESS = "169.254.169.254"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("strace"), reason="no strace found: apt-get install strace"),
]


def own_addresses() -> set[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((ASKED_OF_THE_KERNEL, 53))
        return {"127.0.0.1", "::1", "0.0.0.0", "::", probe.getsockname()[0]}


def traced(flags: list[object], folder: Path) -> tuple[set[str], str]:
    """Addresses that a command and all its processes connect to, less those of this machine; and what they send."""
    trace, home = folder / "trace.txt", folder / "home"
    home.mkdir(exist_ok=True)
    env = os.environ | {"HOME": str(home), "PYTHONPATH": str(HOUSE)}
    command = [*STRACE, "-o", trace, sys.executable, "-m", "crackvae", *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    text = trace.read_text(errors="replace")
    found = {(one or six).removeprefix("::ffff:") for one, six in ADDRESS.findall(text)}
    assert not list(home.rglob("deviceid")), "ONNX Runtime has left a device id"
    return found - own_addresses(), text


def on_ray(flags: list[object], folder: Path) -> None:
    """Run a command on a Ray that it starts itself; it connects to nothing but Ray's processes."""
    found, text = traced(flags, folder)
    resolvers = set(re.findall(r"^nameserver (\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE))
    assert found <= {ASKED_OF_THE_KERNEL, METADATA_ADDRESS, *resolvers}
    assert "usage-stats" not in text and "microsoft" not in text
    print(f"{flags[0]}: {text.count('connect(')} connects, beyond this machine {sorted(found) or 'none'}")


def test_score_in_process_connects_to_nothing(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for image in sorted((drawn / "crack").iterdir())[:4]:
        shutil.copy(image, images)
    flags = ["score", "--images", images, "--model", model_dir, "--out", tmp_path / "out", "--quiet"]
    found, text = traced(flags, tmp_path)
    assert found == set() and "microsoft" not in text


# What a night connects to is what `score` on Ray does, and more.
@pytest.mark.ray
def test_training_adaptation_and_a_night_connect_to_processes_of_ray(
    drawn: Path, manifest: Path, tmp_path: Path
) -> None:
    small = ["--input-px", 32, "--tile-px", 64, "--stride-px", 48, "--channels", "4,8", "--segmenter", "4,8,8,8"]
    small += ["--backbone", "none"]
    model, site = tmp_path / "model", tmp_path / "site"
    sound = ["--images", drawn / "non_crack", "--quiet"]
    on_ray(["train", "--manifest", manifest, "--model", model, "--epochs", 1, *small, "--quiet"], tmp_path)
    on_ray(["adapt", *sound, "--from", model, "--model", site, "--quick", "--max-false-alarm", 0.05], tmp_path)
    on_ray(["nightly", *sound, "--model", site, "--out", tmp_path / "out", "--workers", 2], tmp_path)
