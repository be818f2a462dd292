"""What is handed to `ray job submit`: one file a verb. test_local_cluster submits them."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE


@pytest.mark.slow
@pytest.mark.parametrize("job", sorted((HOUSE / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_a_job_is_the_verb_of_its_name(job: Path) -> None:
    done = subprocess.run([sys.executable, job, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: crackvae {job.stem} ")
