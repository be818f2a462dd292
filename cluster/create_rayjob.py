"""Create the RayJob of a night through the Kubernetes API; do nothing if it exists.

python create_rayjob.py rayjob.json [--night 2026-11-23]

Runs in the pod of the CronJob and needs nothing but Python. Its permissions are those of the pod's service account.
"""

import argparse
import json
import ssl
import sys
import urllib.error
import urllib.request
from datetime import UTC, date, datetime
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# KubeRay refuses longer names of a RayJob, because it derives the names of pods from them.
MAX_NAME = 47
TIMEOUT_S = 30


def main() -> int:
    """Exit code 0: created, or it existed; 1: the API refused the request or did not answer, reported in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rayjob", type=Path, help="the RayJob as JSON, without a night")
    parser.add_argument("--night", type=date.fromisoformat, default=datetime.now(UTC).date(), help="YYYY-MM-DD")
    parser.add_argument("--api", default="https://kubernetes.default.svc", help="address of the Kubernetes API")
    arguments = parser.parse_args()
    rayjob = for_night(json.loads(arguments.rayjob.read_text(encoding="utf-8")), arguments.night)
    name, namespace = rayjob["metadata"]["name"], rayjob["metadata"]["namespace"]
    url = f"{arguments.api}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    try:
        _post(url, rayjob)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 409:
                print(f"{name} exists already: nothing to do")
                return 0
            print(f"create_rayjob: {url} answered {error.code}: {error.read(1000).decode()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"create_rayjob: {url} cannot be reached: {error}", file=sys.stderr)
        return 1
    print(f"created {name}")
    return 0


def for_night(rayjob: dict, night: date) -> dict:
    """The RayJob with the night in its command and in its name, so that there is only one per night."""
    name = f"{rayjob['metadata']['name']}-{night}"
    assert len(name) <= MAX_NAME, f"{name} is longer than the {MAX_NAME} characters that KubeRay allows"
    spec = rayjob["spec"] | {"entrypoint": f"{rayjob['spec']['entrypoint']} --night {night}"}
    return rayjob | {"metadata": rayjob["metadata"] | {"name": name}, "spec": spec}


def _post(url: str, rayjob: dict) -> None:
    headers = {"Content-Type": "application/json"}
    context = None
    if url.startswith("https://"):
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text().strip()}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(url, json.dumps(rayjob).encode(), headers, method="POST")
    # The URL comes from this pod's own command line.
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context):  # nosec B310
        pass


if __name__ == "__main__":
    sys.exit(main())
