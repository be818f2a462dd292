"""What every file that we ship keeps to: a token for Ray, no dashboard for strangers, no rights, no secret."""

import json
import os
import re
import subprocess

import pytest
import ray
import rounds
from conftest import HOUSE

from crackvae import ray_environment, session

TRACKED = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True).stdout.splitlines()
SHIPPED = [
    path for path in TRACKED if path.startswith(("cluster/", "jobs/", "crackvae/", "docs/", "README", "Makefile"))
]
BINARY = (".png", ".gif", ".webp", ".jpg", ".safetensors")
TEXTS = {path: (HOUSE / path).read_text() for path in SHIPPED if not path.endswith(BINARY)}

pytestmark = pytest.mark.skipif(not TRACKED, reason="not a checkout of git")


def matching(pattern: str) -> list[str]:
    return [path for path, text in TEXTS.items() if re.search(pattern, text)]


def test_whatever_starts_a_ray_that_others_can_reach_asks_for_its_token() -> None:
    found = matching(r"(?m)^[^#\n]*\bray\"? start|^cluster_name:|^rayVersion:|^FROM ")
    starting = {path for path in found if path.startswith("cluster/") and not path.endswith(".py")}
    assert {"cluster/aws.yaml", "cluster/gcp.yaml", "cluster/local.sh", "cluster/kuberay/ray-cluster.yaml"} <= starting
    assert starting <= set(matching(r"RAY_AUTH_MODE=token|mode: token"))
    assert not matching(r"RAY_AUTH_MODE[=:\"' ]+disabled")


def test_a_dashboard_listens_to_others_only_behind_a_token_and_a_network_policy() -> None:
    assert matching(r"dashboard[-_]host[=: \"']+(0\.0\.0\.0|::)") in ([], ["cluster/kuberay/ray-cluster.yaml"])
    assert "kind: NetworkPolicy" in TEXTS["cluster/kuberay/base.yaml"]


def test_a_cluster_that_a_run_starts_for_itself_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(ray, "init", lambda **settings: started.append(settings))
    monkeypatch.setattr(session, "_resources", lambda: "none")
    for name in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    with ray_environment.session_environment("local"):
        session._connect("local", quiet=True)
        assert "runtime_env" not in started[0] and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert started[0]["include_dashboard"] is False and started[0]["address"] == "local"


def test_no_container_has_the_rights_of_root() -> None:
    containers = [path for path in TEXTS if path.startswith("cluster/kuberay") and "containers:" in TEXTS[path]]
    assert len(containers) >= 3
    for path in containers:
        assert "runAsNonRoot: true" in TEXTS[path] and "allowPrivilegeEscalation: false" in TEXTS[path], path
        assert not re.search(r"privileged: true|hostPath:|hostNetwork: true|runAsUser: 0\b", TEXTS[path]), path
    assert re.search(r"^USER 1000$", TEXTS["cluster/Dockerfile"], re.MULTILINE)


def test_no_file_holds_what_looks_like_a_credential() -> None:
    assert not matching(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|ghp_[A-Za-z0-9]{36}|eyJhbGciOi|AIza[\w-]{35}")


def test_dependencies_are_pinned_exactly() -> None:
    lines = [line for line in (HOUSE / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=<>~ ]+", line) for line in lines)


def test_the_table_of_faults_in_the_run_book_is_that_of_the_newest_results() -> None:
    path = rounds.newest()
    assert path is not None
    result = json.loads(path.read_text())
    shown = rounds.RUN_BOOK.read_text().partition(rounds.START)[2].partition(rounds.END)[0]
    assert shown == rounds.table(result, path.name)
    assert all(row["lost"] == row["twice"] == row["wrong"] == 0 for row in result["faults"])
