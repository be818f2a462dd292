"""Live scoring of an RTSP stream on loopback: latency, frames a second, drops and memory, with two broken connections.

`python benchmarks/live.py --minutes 10` needs a Debian system with gir1.2-gst-rtsp-server-1.0 and python3-gi. The
server draws its clock into each frame (tests/streaming/rtsp_server.py), so that the latency of a flagged frame is that
from drawing to the saved file: encoding, network, decoding, scoring and writing. The squares of the clock are edges of
full contrast: every frame is flagged and saved with its map, which is the slowest case.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import write_result

import crackvae

HERE = Path(__file__).parent
SERVER = HERE.parent / "tests" / "streaming" / "rtsp_server.py"
sys.path.insert(0, str(SERVER.parent))
PORT = "8599"


def draw_frames(path: Path, size: tuple[int, int], n: int = 24) -> None:
    """Grey frames of drawn concrete, every fourth with a crack."""
    frames = []
    for number in range(n):
        surface, _ = crackvae.synthetic.draw_image(3, number, number % 4 == 0, max(size))
        frames.append(np.asarray(Image.fromarray(surface).convert("L"))[: size[1], : size[0]])
    np.save(path, np.stack(frames))


def start_server(frames: Path, fps: int) -> "subprocess.Popen[bytes]":
    """The server, once it listens."""
    command = ["/usr/bin/python3", str(SERVER), str(frames), PORT, str(fps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout and process.stdout.readline() == b"serving\n", "the RTSP server did not start"
    return process


def memory_mb(process_id: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def watch(live: "subprocess.Popen[str]", frames: Path, fps: int, seconds: float) -> list[float]:
    """Memory once a second; the server is killed and started again after a third and after two thirds of the time."""
    server, memory, started, restarts = start_server(frames, fps), [], time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        time.sleep(1)
        memory.append(memory_mb(live.pid))
        if restarts < 2 and passed > (restarts + 1) * seconds / 3:
            server.kill()
            server.wait()
            time.sleep(3)
            server, restarts = start_server(frames, fps), restarts + 1
    live.send_signal(signal.SIGTERM)
    live.wait()
    server.kill()
    server.wait()
    return memory


def figures_of(out: Path, memory: list[float]) -> dict[str, Any]:
    """What the saved frames, the rows and the measured memory say."""
    from rtsp_server import clock_of

    summary = json.loads(next(out.glob("_summary-*.json")).read_text())
    rows = crackvae.read_scores(out, ["image", "status", "flagged"]).to_pandas()
    saved = sorted((out / "_frames").glob("*.png"))
    latencies = []
    for path in saved:
        with Image.open(path) as image:
            latencies.append(path.stat().st_mtime * 1000 - clock_of(np.asarray(image)))
    quarter = max(1, len(memory) // 4)
    kept = (
        "received",
        "dropped",
        "reconnects",
        "damaged",
        "scored",
        "flagged",
        "findings",
        "latency_ms",
        "latency_max_ms",
        "seconds",
    )
    return {
        **{name: summary[name] for name in kept},
        "rows": len(rows),
        "every_frame_is_accounted_for": summary["received"] == len(rows) + summary["dropped"],
        "saved_frames": len(saved),
        "maps": len(list((out / "_maps").glob("*.jpg"))),
        "received_per_s": round(summary["received"] / summary["seconds"], 1),
        "scored_per_s": round(summary["scored"] / summary["seconds"], 2),
        "saved_within_a_second": round(float(np.mean(np.array(latencies) < 1000)), 3),
        "latency_from_drawing_ms": {str(q): round(float(np.quantile(latencies, q))) for q in (0.1, 0.5, 0.9, 1.0)},
        "memory_mb": {
            "second_quarter": round(float(np.median(memory[quarter : 2 * quarter])), 1),
            "last_quarter": round(float(np.median(memory[-quarter:])), 1),
            "peak": round(max(memory), 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--size", default="1280x720")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        frames, out = Path(folder) / "frames.npy", Path(folder) / "out"
        draw_frames(frames, (width, height))
        command = [sys.executable, "-m", "crackvae", "live", f"rtsp://127.0.0.1:{PORT}/live", "--out", str(out)]
        with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as live:
            memory = watch(live, frames, arguments.fps, 60 * arguments.minutes)
        figures = {
            "size": arguments.size,
            "fps": arguments.fps,
            "exit_code": live.returncode,
            **figures_of(out, memory),
        }
    print(json.dumps(figures, indent=1))
    print(write_result(f"live-{arguments.size}", figures))


if __name__ == "__main__":
    main()
