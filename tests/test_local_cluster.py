"""A cluster of several nodes on this machine: the same table as on one node, token authentication, and a lost node."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import HOUSE, SOON_DEAD, read_rows

from crackvae.config import ScoreConfig
from crackvae.scoring import actors, verb

BIN = Path(sys.executable).parent
SCRIPT = HOUSE / "cluster" / "local.sh"
# Ray notices a lost node within this many seconds; a short run may end earlier.
NOTICED_S = 60


def same_scores(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables are identical to the last bit apart from the run; NaN equals NaN."""
    one, other = (rows.drop_columns(["run"]).to_pylist() for rows in (one, other))
    return repr(one) == repr(other)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head and two worker nodes; yields the environment of a process that uses them."""
    place = Path(f"/tmp/crackvae-nodes-{os.getpid()}")  # a short path, because Ray puts sockets below it
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
    env |= {"CRACKVAE_CLUSTER": str(place), "CRACKVAE_SUBNET": "10.213.8", "RAY": str(BIN / "ray")}
    env |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    try:
        up = subprocess.run([SCRIPT, "up", "2"], env=env, capture_output=True, text=True)
        assert up.returncode == 0, up.stdout + up.stderr
        printed = subprocess.run([SCRIPT, "env"], env=env, capture_output=True, text=True, check=True).stdout
        yield env | dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
    finally:
        subprocess.run([SCRIPT, "down"], env=env, check=True, capture_output=True)
    assert not place.exists()


def submit(env: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    submit = [BIN / "ray", "job", "submit", "--working-dir", HOUSE, "--", "python"]
    return subprocess.run([*submit, *map(str, command)], env=env, capture_output=True, text=True)


def last_json(text: str) -> dict[str, object]:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def test_train_and_score_across_two_nodes_give_the_table_of_one_machine(
    cluster: dict[str, str], drawn: Path, manifest: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    network = ("--input-px", 32, "--channels", "4,8", "--latent-dim", 4, "--tile-px", 64, "--stride-px", 48)
    small = ("--epochs", 1, "--batch", 32, "--backbone", "none", *network)
    trained = submit(cluster, "jobs/train.py", "--manifest", manifest, "--model", model, "--workers", 2, *small)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    flags = ("--images", drawn, "--model", model, "--no-report")
    scored = submit(cluster, "jobs/score.py", *flags, "--workers", 2, "--out", tmp_path / "cluster")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert last_json(scored.stdout)["scored"] == 300
    assert "2 CPUs, 0 GPUs, 3 node(s)" in scored.stdout + scored.stderr
    alone = [
        sys.executable,
        HOUSE / "jobs" / "score.py",
        *flags,
        "--out",
        tmp_path / "alone",
    ]  # without Ray
    env = {name: value for name, value in cluster.items() if not name.startswith("RAY")}
    subprocess.run([*map(str, alone)], env=env, check=True, capture_output=True)
    assert same_scores(read_rows(tmp_path / "cluster"), read_rows(tmp_path / "alone"))


def test_a_user_error_fails_the_job_with_one_line(cluster: dict[str, str], drawn: Path, model_dir: Path) -> None:
    done = submit(cluster, "jobs/score.py", "--images", drawn, "--model", model_dir, "--out", "scores")
    assert done.returncode != 0
    assert "crackvae score: --out scores is relative, and this job's folder is deleted with the job" in done.stdout


@pytest.mark.parametrize("token", [None, "0" * 64, ""])
def test_without_the_right_token_no_request_is_answered(cluster: dict[str, str], token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    job = json.dumps({"entrypoint": "true"}).encode()
    for data in (None, job):  # list the jobs, and submit one
        request = urllib.request.Request(f"{cluster['RAY_ADDRESS']}/api/jobs/", data, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code in (401, 403)
        refused.value.close()


def test_without_the_right_token_no_job_is_accepted(cluster: dict[str, str], tmp_path: Path) -> None:
    env = {name: value for name, value in cluster.items() if name != "RAY_AUTH_TOKEN_PATH"} | {"HOME": str(tmp_path)}
    mark = tmp_path / "mark"
    refused = submit(env | {"RAY_AUTH_TOKEN": "0" * 64}, "-c", f"open({str(mark)!r}, 'w')")
    assert refused.returncode != 0 and not mark.exists()


def test_without_the_right_token_no_driver_joins(cluster: dict[str, str], tmp_path: Path) -> None:
    env = cluster | {"RAY_AUTH_TOKEN": "0" * 64, "HOME": str(tmp_path)}
    join = f"import ray; ray.init(address={cluster['CRACKVAE_HEAD']!r}); print('joined')"
    done = subprocess.run([sys.executable, "-c", join], env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "joined" not in done.stdout


# ------------------------------------------------------------------------------------------- a lost node


def score_and_lose_a_node(images: str, model: str, out: str, undisturbed: str) -> None:
    """Score on a head and two nodes, one of which is lost when the first rows arrive; then again, undisturbed."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON_DEAD}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()
    real, alive = verb.score_rows, []

    def score_rows(*arguments: object, **others: object) -> Iterator[pa.Table]:
        blocks = real(*arguments, **others)
        yield next(blocks)
        cluster.remove_node(nodes[1], allow_graceful=False)
        yield from blocks
        end = time.monotonic() + NOTICED_S
        while len(seen := [node for node in ray.nodes() if node["Alive"]]) > 2 and time.monotonic() < end:
            time.sleep(0.2)
        alive.append(len(seen))

    verb.score_rows, actors.BLOCK_IMAGES = score_rows, 10
    summary = verb.score(
        ScoreConfig(images=images, model=model, out=out, workers=2, no_report=True, quiet=True)
    ).summary
    print(json.dumps({"scored": summary["scored"], "alive": alive[0]}))
    verb.score_rows = real
    verb.score(ScoreConfig(images=images, model=model, out=undisturbed, no_report=True, quiet=True))
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.ray
def test_a_node_killed_while_it_scores_costs_no_row(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    arguments = (str(drawn), str(model_dir), str(tmp_path / "out"), str(tmp_path / "undisturbed"))
    code = f"from test_local_cluster import score_and_lose_a_node as lose; lose{arguments!r}"
    env = os.environ | {"PYTHONPATH": f"{HOUSE}{os.pathsep}{HOUSE / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert last_json(done.stdout) == {"scored": 300, "alive": 2}
    assert same_scores(read_rows(tmp_path / "out"), read_rows(tmp_path / "undisturbed"))
