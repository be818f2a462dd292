"""Telemetry of a run: metrics that equal the table, valid Prometheus rules, one-line logs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HOUSE, free_ports, read_rows

from crackvae.monitoring.telemetry import StageClock, log_event
from crackvae.storage import fileio, filesystems

WATCH = HOUSE / "cluster" / "watch"
# Timeout for Ray to export its metrics, on a busy machine [s].
SCRAPE_S = 120


def exposition(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples of our metrics from the Prometheus text format, by name and our own labels."""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(ray_crackvae_\w+?)\{(.*)\} (\S+)", line)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            ours = tuple((name, labels[name]) for name in ("status", "stage", "measure") if name in labels)
            key = (match[1], ours)
            samples[key] = samples.get(key, 0) + float(match[3])
    return samples


def read_at_the_second_try(image: str) -> bytes:
    """Storage that fails the first time for images whose number ends in 7."""
    tries = iter([OSError("HTTP status 503, slow down"), None])

    def once() -> bytes:
        if image.endswith("7.jpg") and (busy := next(tries)):
            raise busy
        return fileio.read_image(image)

    return filesystems.retried(once)


def score_and_wait(images: str, model: str, out: str, port: int) -> None:
    """Score in a session with a metrics agent, and stay connected until standard input is closed."""
    import ray

    from crackvae.config import ScoreConfig
    from crackvae.monitoring.telemetry import emit_drift_metrics
    from crackvae.scoring.verb import score

    ray.init(
        address="local",
        num_cpus=2,
        _metrics_export_port=port,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    fileio.image_reader = lambda: read_at_the_second_try
    score(ScoreConfig(images=images, model=model, out=out, max_unreadable="5", no_report=True, quiet=True))
    emit_drift_metrics(2, {"brightness": 0.5}, 0.01)
    print("scored", flush=True)
    sys.stdin.readline()
    ray.shutdown()


def scraped(port: int, images: int, retries: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of the agent of the node once they include the last image."""
    deadline = time.monotonic() + SCRAPE_S
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            samples = exposition(answer.read().decode())
        counted = sum(value for (name, _), value in samples.items() if name == "ray_crackvae_images_total")
        is_told = samples.get(("ray_crackvae_storage_retries_total", ()), 0) >= retries
        if counted >= images and is_told and ("ray_crackvae_drift_level", ()) in samples:
            return samples
        time.sleep(0.5)
    raise AssertionError(f"the agent told {samples} after {SCRAPE_S} s")


def told_by_prometheus(port: int, folder: Path) -> tuple[dict[str, int], set[str]]:
    """Images by status and firing alerts, as a real Prometheus with our rules knows them after a scrape."""
    (web,) = free_ports(1)
    scrape = {"job_name": "ray-nodes", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    settings = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings | {"rule_files": [str(WATCH / "alerts.yaml")]}))
    flags = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    command = ("prometheus", *flags, f"--web.listen-address=127.0.0.1:{web}", "--log.level=error")
    deadline = time.monotonic() + SCRAPE_S
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while time.monotonic() < deadline:
                time.sleep(0.5)
                try:
                    series = asked(web, "query?query=sum%20by%20(status)%20(ray_crackvae_images_total)")["result"]
                    alerts = asked(web, "alerts")["alerts"]
                except urllib.error.URLError:  # it has not started yet
                    continue
                firing = {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}
                if series and firing:
                    return {one["metric"]["status"]: int(one["value"][1]) for one in series}, firing
        finally:
            process.terminate()
    raise AssertionError(f"Prometheus knew nothing after {SCRAPE_S} s")


def asked(web: int, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/{path}", timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
        return data


@pytest.mark.ray
def test_the_metrics_of_a_running_job_equal_its_table(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(drawn / "crack", images)
    for number in range(3):
        (images / f"broken-{number}.jpg").write_bytes(b"not an image")
    (port,) = free_ports(1)
    code = f"from test_telemetry import score_and_wait as go; go{(str(images), str(model_dir), str(out), port)!r}"
    env = os.environ | {
        "PYTHONPATH": f"{HOUSE}{os.pathsep}{HOUSE / 'tests'}{os.pathsep}{HOUSE / 'tests' / 'monitoring'}"
    }
    with subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "scored\n"
        n_busy = sum(image.name.endswith("7.jpg") for image in images.iterdir())
        samples = scraped(port, 63, n_busy)
        seen = told_by_prometheus(port, tmp_path) if shutil.which("prometheus") else None
        process.stdin.write("\n")
        process.stdin.flush()
    rows = read_rows(out)
    assert seen is None or seen == ({"scored": 60, "unreadable": 3}, {"CrackvaeDrift"})
    assert samples["ray_crackvae_images_total", (("status", "scored"),)] == 60
    assert samples["ray_crackvae_images_total", (("status", "unreadable"),)] == 3
    assert samples.get(("ray_crackvae_flagged_total", ()), 0) == sum(rows["flagged"].to_pylist())
    assert samples["ray_crackvae_bytes_total", ()] == sum(rows["bytes"].to_pylist())
    assert samples["ray_crackvae_storage_retries_total", ()] == n_busy > 0
    assert samples["ray_crackvae_images_left", ()] == 0 and samples["ray_crackvae_images_per_second", ()] > 0
    assert {name for name, _ in samples} >= {"ray_crackvae_stage_seconds_total"}
    assert samples["ray_crackvae_drift_level", ()] == 2
    assert samples["ray_crackvae_drift_ks", (("measure", "brightness"),)] == 0.5


def names_in(text: str) -> set[str]:
    return set(re.findall(r"ray_(crackvae_\w+)", text))


def known_names() -> set[str]:
    """Names as Prometheus sees them, without `ray_`, from the one module that makes them."""
    text = (HOUSE / "crackvae" / "monitoring" / "telemetry.py").read_text()
    kinds = re.findall(r'(Counter|Gauge)\(\s*"(crackvae_\w+)"', text)
    return {f"{name}_total" if kind == "Counter" else name for kind, name in kinds}


@pytest.mark.parametrize("place", ["alerts.yaml", "dashboard.json", "../../docs/operate.md"])
def test_rules_dashboard_and_operations_guide_name_metrics_that_exist(place: str) -> None:
    named = names_in((WATCH / place).read_text())
    assert named and named <= known_names()


def test_the_operations_guide_documents_every_metric_and_every_alert() -> None:
    text = (HOUSE / "docs" / "operate.md").read_text()
    assert known_names() <= names_in(text)
    groups = yaml.safe_load((WATCH / "alerts.yaml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert f"### {rule['alert']}" in text, rule["alert"]
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "look")


def test_the_alert_rules_pass_promtool() -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run([promtool, "check", "rules", WATCH / "alerts.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([promtool, "test", "rules", WATCH / "alerts-test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_json_with_a_query_in_every_panel() -> None:
    dashboard = json.loads((WATCH / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert dashboard["uid"] == "crackvae" and len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def test_a_log_line_is_one_json_object_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    log_event("scored", run="20261123T220000_000001", note="two\nlines", path=Path("/a"))
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["run"], event["note"]) == ("scored", "20261123T220000_000001", "two\nlines")
    assert event["time"].endswith("+00:00")


def test_a_clock_counts_the_making_of_items_and_hands_out_all(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[float, str]] = []

    class Counted:
        def __init__(self, *_: object) -> None:
            pass

        def inc(self, seconds: float, tags: dict[str, str]) -> None:
            counted.append((seconds, tags["stage"]))

    monkeypatch.setattr("ray.util.metrics.Counter", Counted)
    assert list(StageClock().each("decode", iter("abc"))) == ["a", "b", "c"]
    assert {stage for _, stage in counted} == {"decode"} and all(seconds > 0 for seconds, _ in counted)
