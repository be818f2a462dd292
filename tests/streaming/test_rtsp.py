"""A real RTSP server: frames become rows, a broken connection is made again, and every frame is accounted for."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import free_ports, read_rows, small_spec, write_model
from test_live_verb import address_of, start, wait_for

from crackvae.images.synthetic import draw_image

SERVER = Path(__file__).parent / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
FPS = 10

pytestmark = pytest.mark.server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A function that starts the server, or starts it again after it was killed."""
    probe = [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly python3-gi")
    surface, _ = draw_image(1, 1, True, 800)
    np.save(tmp_path / "frames.npy", surface[:96, :, 0][None].repeat(3, axis=0))
    (port,) = free_ports(1)
    running: list[subprocess.Popen[bytes]] = []

    def start_server() -> str:
        stop_server()
        command = [SYSTEM_PYTHON, str(SERVER), str(tmp_path / "frames.npy"), str(port), str(FPS)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        assert running[0].stdout and running[0].stdout.readline() == b"serving\n"
        return f"rtsp://anna:s3cret@127.0.0.1:{port}/live"

    def stop_server() -> None:
        for server in running:
            server.kill()
            server.communicate()
        running.clear()

    yield start_server
    stop_server()


def test_a_stream_is_scored_through_a_restart_of_its_server_until_sigterm(serve, tmp_path):
    model = write_model(tmp_path / "model", small_spec(head="mse"), threshold=1e-6)
    out, source = tmp_path / "out", serve()
    process = start(source, "--model", model, "--out", out, "--port", 0)
    try:
        address = address_of(process)
        before = wait_for(address, "scored", 5)
        serve()
        wait_for(address, "reconnects", 1)
        state = wait_for(address, "scored", int(str(before["scored"])) + 30)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    summary, rows = json.loads(printed.splitlines()[-1]), read_rows(out)
    assert process.returncode == 0 and "Traceback" not in told
    assert summary["received"] == rows.num_rows + summary["dropped"] and summary["reconnects"] >= 1
    assert state["state"] == "receiving" and "s3cret" not in printed + told + str(state)
    saved = {str(path) for path in (out / "_frames").iterdir()}
    assert saved == {row["image"] for row in rows.to_pylist() if row["flagged"]} and saved
    assert {path.name for path in (out / "_maps").iterdir()} == {f"{Path(name).name}.jpg" for name in saved}
    assert all(row["taken"] == row["modified"] for row in rows.to_pylist())
