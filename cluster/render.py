"""Fill the values of a site into the files of a cluster and print them.

python cluster/render.py kuberay | kubectl apply -f -         permissions, volume, network, settings, a nightly CronJob
python cluster/render.py rayjob-score | kubectl create -f -   one job now (or rayjob-train)
python cluster/render.py shards | kubectl create -f -         a scoring job for each of SHARDS shards, all now
python cluster/render.py raycronjob | kubectl apply -f -      instead of the CronJob, if the operator supports it
python cluster/render.py aws > aws.yaml && ray up aws.yaml    (or gcp)
python cluster/render.py nightly.toml                         settings of a night, for --config

A name is that of a file in this folder or in kuberay/, without its extension. In such a file `${NAME}` stands for a
value of values.env, and a string that starts with `@` includes another file: `@file` as YAML, `@json:file` as JSON
text, `@text:file` as plain text.
"""

import argparse
import json
import sys
from pathlib import Path
from string import Template
from typing import Any

import yaml

HERE = Path(__file__).parent
KUBERAY = HERE / "kuberay"
# Names that stand for several files.
SETS = {"kuberay": ("base", "nightly-cronjob")}


def main() -> int:
    """Print the rendered file; exit code 2 for an unknown name or a missing value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "name", help="kuberay, rayjob-train, rayjob-score, shards, raycronjob, aws, gcp or nightly.toml"
    )
    parser.add_argument("--values", default=HERE / "values.env", type=Path, help="file of NAME=VALUE lines")
    arguments = parser.parse_args()
    try:
        values = read_values(arguments.values)
        if arguments.name.endswith(".toml"):
            print(fill(HERE / arguments.name, values), end="")
        else:
            names = SETS.get(arguments.name, (arguments.name,))
            documents = [document for name in names for document in rendered(name, values)]
            print(yaml.safe_dump_all(documents, sort_keys=False, width=120), end="")
    except (OSError, KeyError, ValueError) as error:
        print(f"render.py: {error}: see cluster/values.env and the names in --help.", file=sys.stderr)
        return 2
    return 0


def read_values(path: Path) -> dict[str, str]:
    """Read NAME=VALUE lines; blank lines and comments are skipped."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def rendered(name: str, values: dict[str, str]) -> list[Any]:
    """The documents of a name of the command line."""
    return shards(values) if name == "shards" else render(name, values)


def shards(values: dict[str, str]) -> list[Any]:
    """One rayjob-score for each shard, with its own cluster: what is killed is submitted again by its shard."""
    documents, count = [], int(values["SHARDS"])
    for number in range(1, count + 1):
        (job,) = render("rayjob-score", values)
        job["metadata"]["generateName"] += f"{number}of{count}-"
        job["spec"]["entrypoint"] += f" --shard {number}/{count}"
        documents.append(job)
    return documents


def render(name: str, values: dict[str, str]) -> list[Any]:
    """The YAML documents of a file, with values filled in and includes resolved."""
    path = KUBERAY / f"{name}.yaml" if (KUBERAY / f"{name}.yaml").exists() else HERE / f"{name}.yaml"
    return [_included(document, values) for document in yaml.safe_load_all(fill(path, values))]


def fill(path: Path, values: dict[str, str]) -> str:
    """The text of a file with its values filled in. Raises KeyError for a missing value."""
    return Template(path.read_text(encoding="utf-8")).substitute(values)


def _included(node: Any, values: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _included(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_included(value, values) for value in node]
    if not (isinstance(node, str) and node.startswith("@")):
        return node
    kind, _, name = node[1:].rpartition(":")
    if kind == "text":
        return (HERE / name).read_text(encoding="utf-8") if name.endswith(".py") else fill(HERE / name, values)
    (document,) = render(name, values)
    return json.dumps(document, indent=1) if kind == "json" else document


if __name__ == "__main__":
    sys.exit(main())
