"""Create the RayJob of a night through the Kubernetes API; where it is there already, do nothing.

python create_rayjob.py rayjob.json [--night 2026-11-23]

Runs in the pod of the CronJob with nothing but Python: its rights are those of the pod's service account.
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
# KubeRay refuses longer names of a RayJob: it makes those of pods from it.
MAX_NAME = 47
TIMEOUT_S = 30


def main() -> int:
    """Exit code 0: created, or there already; 1: the API refused it, in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rayjob", type=Path, help="the RayJob as JSON, without a night")
    parser.add_argument("--night", type=date.fromisoformat, default=datetime.now(UTC).date(), help="YYYY-MM-DD")
    parser.add_argument("--api", default="https://kubernetes.default.svc", help="address of the Kubernetes API")
    given = parser.parse_args()
    rayjob = of_night(json.loads(given.rayjob.read_text(encoding="utf-8")), given.night)
    name, namespace = rayjob["metadata"]["name"], rayjob["metadata"]["namespace"]
    url = f"{given.api}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    try:
        _post(url, rayjob)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 409:
                print(f"{name} is there already: nothing to do")
                return 0
            print(f"create_rayjob: {url} answered {error.code}: {error.read(1000).decode()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"create_rayjob: {url} cannot be reached: {error}", file=sys.stderr)
        return 1
    print(f"created {name}")
    return 0


def of_night(rayjob: dict, night: date) -> dict:
    """The RayJob with the night in its name, which makes it one of its kind, and in its command."""
    name = f"{rayjob['metadata']['name']}-{night}"
    assert len(name) <= MAX_NAME, f"{name} is longer than the {MAX_NAME} letters that KubeRay takes"
    spec = rayjob["spec"] | {"entrypoint": f"{rayjob['spec']['entrypoint']} --night {night}"}
    return rayjob | {"metadata": rayjob["metadata"] | {"name": name}, "spec": spec}


def _post(url: str, rayjob: dict) -> None:
    headers = {"Content-Type": "application/json"}
    context = None
    if url.startswith("https://"):
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text().strip()}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(url, json.dumps(rayjob).encode(), headers, method="POST")
    # The address is the API's own, from the pod's environment.
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context):  # nosec B310
        pass


if __name__ == "__main__":
    sys.exit(main())
