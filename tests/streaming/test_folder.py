"""Files that arrive: which ones are complete, and that each is scored once."""

import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest
from conftest import small_spec
from findings_made import RUN, blank
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crackvae.images.decoding import windows
from crackvae.storage.listing import LISTING_SCHEMA, list_paths
from crackvae.storage.tables import SCORES_SCHEMA, write_part
from crackvae.streaming import folder
from crackvae.streaming.folder import KEY, REST_S, Folder, Resting, is_inside

SPEC = small_spec(tile_px=256, stride_px=192, input_px=256)
NONE = LISTING_SCHEMA.empty_table()


def listing(**sizes: int) -> pa.Table:
    time = datetime(2026, 11, 29, tzinfo=UTC)
    rows = [{"image": name, "bytes": size, "modified": time, "error": ""} for name, size in sorted(sizes.items())]
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)


def ready(resting: Resting, now_s: float, **sizes: int) -> list[str]:
    return resting.ready(listing(**sizes), now_s)["image"].to_pylist()


def test_a_file_is_left_until_its_size_rests():
    resting = Resting(NONE)
    assert ready(resting, 0, a=1) == []
    assert ready(resting, 1, a=5, b=1) == []
    assert ready(resting, 1 + REST_S, a=6, b=1) == ["b"]
    assert ready(resting, 9, a=6, b=1) == ["a"]
    assert ready(resting, 20, a=6, b=1) == []


def test_a_replaced_file_comes_again_and_a_deleted_one_is_forgotten():
    resting = Resting(listing(a=1))
    assert ready(resting, 0, a=1) == ready(resting, 9, a=1) == []
    assert ready(resting, 10, a=2) == []
    assert ready(resting, 20, a=2) == ["a"]
    assert ready(resting, 30) == [] and resting.done.num_rows == 0


@settings(max_examples=30, deadline=None)
@given(polls=st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)), max_size=30))
def test_no_state_of_a_file_is_returned_twice_in_a_row_and_none_that_rests_is_missed(polls):
    resting, last, since = Resting(NONE), {}, {}
    for number, sizes in enumerate(polls):
        now_s = number * REST_S / 2
        since = {key: since.get(key, now_s) for key in sizes.items()}
        last = {name: size for name, size in last.items() if sizes.get(name) == size}
        found = resting.ready(listing(**sizes), now_s)
        expected = {key for key, at_s in since.items() if now_s - at_s >= REST_S and last.get(key[0]) != key[1]}
        assert {(row["image"], row["bytes"]) for row in found.to_pylist()} == expected
        last |= dict(expected)


def test_after_a_batch_that_takes_long_to_score_the_folder_is_listed_again_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "REST_S", 0.0)
    (tmp_path / "in").mkdir()
    scorer = SimpleNamespace(model=SimpleNamespace(digest="m"), calibration=SimpleNamespace(threshold=1.0))
    source = Folder(str(tmp_path / "in"), str(tmp_path / "out"), scorer, quiet=True)
    Image.new("L", (300, 300), 99).save(tmp_path / "in" / "a.png")
    stop, pauses_s = threading.Event(), []
    monkeypatch.setattr(stop, "wait", pauses_s.append)
    arrivals = source.arrivals(SPEC, stop)
    assert next(arrivals).image.endswith("a.png")
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 1000)  # scoring took that long
    assert next(arrivals) is None and next(arrivals) is None
    assert pauses_s[0] < 100


def test_what_is_finished_has_the_columns_of_its_key():
    assert Resting(listing(a=1)).done.column_names == KEY


@pytest.mark.parametrize(
    ("out", "source", "inside"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/a", "/a/b", False), ("/ab", "/a", False), ("s3://b/x", "/a", False)],
)
def test_scores_in_the_source_are_recognised(out, source, inside):
    assert is_inside(out, source) == inside


def test_a_file_that_is_replaced_or_put_back_begins_a_further_run(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "REST_S", 0.0)
    (tmp_path / "in").mkdir()
    scorer = SimpleNamespace(model=SimpleNamespace(digest="m"), calibration=SimpleNamespace(threshold=1.0))
    source = Folder(str(tmp_path / "in"), str(tmp_path / "out"), scorer, quiet=True)
    stop, file = threading.Event(), tmp_path / "in" / "a.png"
    monkeypatch.setattr(stop, "wait", lambda _: None)
    arrivals, again = source.arrivals(SPEC, stop), []

    def next_image():
        return next(arrival for arrival in arrivals if arrival)

    for side in (300, 310, 320):
        Image.new("L", (side, side), 99).save(file)
        again.append(next_image().is_again)
    file.unlink()
    assert next(arrivals) is None
    Image.new("L", (320, 320), 99).save(file)
    Image.new("L", (300, 300), 99).save(tmp_path / "in" / "b.png")
    again += [next_image().is_again for _ in range(2)]
    assert again == [False, True, True, True, False]


@pytest.mark.parametrize("finished", [1, 2])
def test_a_very_large_tiff_is_finished_once_all_of_its_windows_are(tmp_path, monkeypatch, finished):
    monkeypatch.setattr(windows, "MIN_BYTES", 1)
    monkeypatch.setattr(folder, "MAX_IMAGE_PX", 1_000)
    (tmp_path / "in").mkdir()
    Image.new("L", (5000, 20), 99).save(tmp_path / "in" / "a.tif")
    listed = windows.with_windows(list_paths([str(tmp_path / "in")]).images, 1_000)
    assert listed.num_rows == 2
    row = blank(SCORES_SCHEMA) | {"model": "m", "run": RUN, "status": "scored", "threshold": 1.0}
    rows = [row | one for one in listed.slice(0, finished).to_pylist()]
    write_part(str(tmp_path / "out"), pa.Table.from_pylist(rows, SCORES_SCHEMA), RUN, 0)
    scorer = SimpleNamespace(model=SimpleNamespace(digest="m"), calibration=SimpleNamespace(threshold=1.0))
    source = Folder(str(tmp_path / "in"), str(tmp_path / "out"), scorer, quiet=True)
    assert source._resting.done.num_rows == (finished == 2)
