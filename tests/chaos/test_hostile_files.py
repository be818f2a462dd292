"""Files of our own kinds, bent at random: each is read as it was, or refused in one line. None is followed elsewhere.

What a single wrong value does is tested beside each reader; here the space is every byte of the file.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import IS_LONG, read_rows
from files import one_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crackvae.config import ScoreConfig, read_settings
from crackvae.errors import CrackvaeError
from crackvae.images.manifest import load_manifest
from crackvae.model.inference import load_scorer
from crackvae.scoring import verb
from crackvae.scoring.compaction import finish_compaction
from crackvae.storage import fileio, tables
from crackvae.storage.tables.verdict_csv import read_verdict_csv

# A cut at some byte, and some bytes written over others.
BENDS = st.tuples(
    st.none() | st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4)), max_size=6)
)
bent_ways = settings(
    derandomize=True,
    deadline=None,
    max_examples=1000 if IS_LONG else 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def bent(data: bytes, bends: tuple[int | None, list[tuple[int, bytes]]]) -> bytes:
    cut, patches = bends
    changed = bytearray(data)
    for at, patch in patches:
        at %= max(1, len(changed))
        changed[at : at + len(patch)] = patch
    return bytes(changed if cut is None else changed[: cut % (len(changed) + 1)])


def read_of_model(place: Path) -> object:
    scorer = load_scorer(str(place.parent))
    return scorer.model.digest, scorer.calibration.digest


def read_part(place: Path) -> object:
    return tables.read_parts([str(place)], ["image", "status", "score"]).num_rows


@pytest.fixture(scope="module")
def kinds(
    model_dir: Path, manifest: Path, scored_night: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """A copy of a file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("kinds")
    shutil.copytree(model_dir, folder / "model")
    shutil.copy(manifest, folder / "manifest.parquet")
    shutil.copytree(scored_night, folder / "scores")
    (folder / "verdicts.csv").write_text("image,verdict\n/a.jpg,crack\n/b.jpg,sound\n")
    (folder / "score.toml").write_text('images = "x"\nmodel = "y"\nout = "z"\nbatch = 3\nmax_unreadable = "5%"\n')
    (folder / "scores" / "_compact-1.json").write_text(
        json.dumps({"old": ["a-00000.parquet"], "new": ["b-00000.parquet"]})
    )
    return {
        "model.json": (folder / "model" / "model.json", read_of_model),
        "weights": (next((folder / "model").glob("*.p*t*")), read_of_model),
        "calibration.json": (folder / "model" / "calibration.json", read_of_model),
        "manifest": (folder / "manifest.parquet", lambda place: load_manifest(str(place)).digest),
        "scores part": (next((folder / "scores").glob("*.parquet")), read_part),
        "journal": (folder / "scores" / "_compact-1.json", lambda place: tables.list_parts(str(place.parent))),
        "verdicts": (folder / "verdicts.csv", lambda place: read_verdict_csv(str(place))),
        "settings": (folder / "score.toml", lambda place: read_settings(str(place), ScoreConfig)),
    }


KINDS = ("model.json", "weights", "calibration.json", "manifest", "scores part", "journal", "verdicts", "settings")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_ours_that_is_bent_is_read_or_refused_in_one_line(
    kind: str, kinds: dict[str, tuple[Path, Callable[[Path], object]]]
) -> None:
    place, read = kinds[kind]
    whole = place.read_bytes()
    read(place)

    @bent_ways
    @given(BENDS)
    def bend(bends: tuple[int | None, list[tuple[int, bytes]]]) -> None:
        place.write_bytes(bent(whole, bends))
        try:
            read(place)
        except CrackvaeError as error:
            assert one_line(error)  # noqa: PT017, either is right

    try:
        bend()
    finally:
        place.write_bytes(whole)


@pytest.mark.usefixtures("in_process")
def test_a_list_that_climbs_out_of_its_folder_reads_images_and_shows_nothing_of_other_files(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("hunter2")
    (tmp_path / "night").mkdir()
    names = [
        "../secret.txt",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "../../../../../etc/shadow",
        f"{tmp_path}",
    ]
    (tmp_path / "night" / "list.txt").write_text("\n".join([*names, str(next(drawn.rglob("*.jpg")))]))
    settings = {"images": f"@{tmp_path}/night/list.txt", "model": str(model_dir), "out": str(tmp_path / "out")}
    verb.score(ScoreConfig(**settings, quiet=True, no_report=True, max_unreadable="100%", max_unreachable="100%"))
    rows = read_rows(tmp_path / "out").to_pylist()
    assert [row["status"] for row in rows].count("scored") == 1 and len(rows) == len(names) + 1
    written = b"".join(place.read_bytes() for place in (tmp_path / "out").iterdir())
    assert b"hunter2" not in written and b"root:" not in written and all(len(row["error"]) < 200 for row in rows)


def test_a_journal_reaches_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    folder = tmp_path / "scores"
    folder.mkdir()
    journal = {"old": ["../precious", str(tmp_path / "precious")], "new": ["../precious", "../../x"]}
    (folder / "_compact-1.json").write_text(json.dumps(journal))
    finish_compaction(str(folder))
    assert (tmp_path / "precious").read_text() == "kept" and not list(folder.iterdir())


def test_a_part_of_nested_or_huge_columns_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "run-00000.parquet"
    pq.write_table(pa.table({"image": [[["a"]]], "status": [{"x": 1}], "score": ["0.5"]}), place)
    with pytest.raises(CrackvaeError) as refused:
        read_part(place)
    assert one_line(refused.value)
    assert fileio.list_files(str(tmp_path)) == [place.name]
