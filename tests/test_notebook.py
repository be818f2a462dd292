"""The notebook of the documentation: its cells run from top to bottom, and it is committed without outputs."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from conftest import HOUSE

CELLS = json.loads((HOUSE / "docs" / "start.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
# Photographs of 9 tiles instead of 16, which are as many calls of everything.
SMALLER = "side_px=768", "side_px=512"


@pytest.mark.slow
@pytest.mark.usefixtures("train_in_process", "in_process")
def test_the_cells_run_and_find_the_drawn_cracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SMALLER[0] in CODE[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for code in CODE:
            exec(compile(code.replace(*SMALLER), "start.ipynb", "exec"), names)  # as a kernel would
        names["plt"].close("all")
    assert {Path(image).parent.name for image in names["scores"]["image"][:2]} == {"crack"}
    assert len(names["findings"]) > 0
    assert names["site"].false_alarm_low <= 0.01 <= names["site"].false_alarm_high


def test_it_has_no_outputs() -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)
