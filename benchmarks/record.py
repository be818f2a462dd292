"""What every benchmark writes: a dated JSON file with the machine and the commit that its figures belong to."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Flags of a processor that decide how fast a network runs.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, figures: dict[str, Any]) -> Path:
    """Write results/NAME-DATE.json and return its path."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS)
    now = datetime.now(UTC)
    result = {"name": name, "date": now.isoformat(timespec="seconds"), "commit": commit.stdout.strip()}
    path = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(result | {"machine": machine()} | figures, indent=1) + "\n")
    return path


def machine() -> str:
    """Processor with its FLAGS and number of cores, as the operating system names them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in FLAGS if flag in named.get("flags", "").split()]
    model = named.get("model name", platform.processor())
    return f"{model} ({' '.join(flags)}), {os.cpu_count()} cores, {platform.system()}"
