"""Output on the terminal: names cannot control it, tables fit it, and a closed pipe stops nothing."""

import io
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import HOUSE

from crackvae.console import few_digits, tables_text, visible, write

NIGHT = pd.DataFrame(
    {
        "image": [f"/nights/{'deep/' * 20}crack-008.jpg", "/nights/\x1b[31mred\x07.jpg"],
        "p_value": [0.0025, np.nan],
        "flagged": [True, False],
    }
)


def test_invisible_characters_are_spelled_out() -> None:
    assert visible("a\u202eb\u200bc\td") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+0009⟩d"
    assert visible("Brücke 7, 橋.jpg") == "Brücke 7, 橋.jpg"


def test_a_name_in_a_table_cannot_change_terminal_colours() -> None:
    text = tables_text({"most \x1b[1msuspicious": NIGHT}, None)
    assert "\x1b" not in text and "\x07" not in text and "⟨U+001B⟩[31mred⟨U+0007⟩.jpg" in text


def test_a_table_fits_the_terminal_and_a_path_keeps_its_file_name() -> None:
    lines = tables_text({"night": NIGHT}, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1].split() == ["image", "p", "value", "flagged"]
    assert lines[3].startswith("/nights/deep/") and "..." in lines[3]
    assert lines[3].split()[-3].endswith("/crack-008.jpg")
    assert lines[3].split()[-2:] == ["0.0025", "yes"]
    assert lines[4].split()[-2:] == ["-", "no"]


def test_a_file_or_a_pipe_gets_whole_paths() -> None:
    assert NIGHT["image"][0] in tables_text({"night": NIGHT}, None)


def test_row_names_are_a_column_and_an_empty_table_says_so() -> None:
    text = tables_text({"report": pd.DataFrame({"value": ["p.html", 3]}, index=["page", "n"]), "none": NIGHT[:0]}, 80)
    assert text.splitlines()[3:5] == ["page  p.html", "n     3"] and text.endswith("none\n(none)")


def test_the_numbers_of_epochs_are_a_column() -> None:
    epochs = pd.DataFrame([{"epoch": number, "loss": 1 / number} for number in (1, 2)]).set_index("epoch")
    assert tables_text({"epochs": epochs}, None).splitlines()[1:] == [
        "epoch  loss",
        "-----  ----",
        "    1     1",
        "    2   0.5",
    ]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(2216.3, 3, "2,216"), (184.4, 2, "184"), (999.7, 3, "1,000"), (-1.25e6, 4, "-1,250,000"), (1.5e-7, 2, "1.5e-07")],
)
def test_a_large_number_has_no_exponent(value: float, digits: int, text: str) -> None:
    assert few_digits(value, digits, ",") == text
    assert tables_text({"sizes": pd.DataFrame({"length": [12345.6]})}, None).endswith(" 12346")


def test_characters_that_a_terminal_cannot_show_are_escaped() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write(ascii_only, "Brücke ⟨U+001B⟩\n")
    ascii_only.seek(0)
    assert ascii_only.read() == "Br\\xfccke \\u27e8U+001B\\u27e9\n"


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_closed_pipe_changes_neither_the_work_nor_its_exit_code(descriptor: int) -> None:
    code = (
        "import sys; from crackvae import console\n"
        f"stream = sys.stdout if {descriptor} == 1 else sys.stderr\n"
        "for _ in range(3): console.write(stream, 'line\\n')\n"
        "print('more', file=stream); sys.exit(5)"
    )
    read, written = os.pipe()
    os.close(read)
    streams = {"stdout": written, "stderr": subprocess.PIPE} if descriptor == 1 else {"stderr": written}
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, **streams)  # type: ignore[call-overload]
    os.close(written)
    assert done.returncode == 5 and not done.stderr
