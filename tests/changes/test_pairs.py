"""Which earlier photograph shows the place of a later one."""

from pathlib import Path

import pyarrow as pa
import pytest
from findings_made import bridge

import crackvae
from crackvae.changes.pairs import by_csv, by_path, by_place
from crackvae.errors import ManifestError, StorageError

NAN = float("nan")

BEFORE = ["/2025/bridge/a/1.jpg", "/2025/bridge/b/1.jpg", "/2025/bridge/b/2.jpg"]
AFTER = ["s3://site/may/a/1.jpg", "s3://site/may/b/1.jpg", "s3://site/may/c/9.jpg"]


def test_photographs_with_the_same_path_below_their_visit_are_pairs() -> None:
    assert by_path(BEFORE, AFTER) == {AFTER[0]: BEFORE[0], AFTER[1]: BEFORE[1]}


def test_dates_in_a_path_do_not_count_and_the_last_visit_before_is_taken() -> None:
    before = [f"/site/{night}/bridge/1.jpg" for night in ("2024-05-02", "2025-05-07")]
    after = ["/site/2026-05-09/bridge/1.jpg", "/site/2026-05-09/tunnel/1.jpg", before[1]]
    assert by_path(before, after, same_root=True) == {after[0]: before[1]}
    assert by_path(["/a/wall_20250507_3.jpg", "/a/20250507.jpg"], ["/b/wall_20260509_3.jpg", "/b/1234567890.jpg"]) == {
        "/b/wall_20260509_3.jpg": "/a/wall_20250507_3.jpg"
    }


def test_a_photograph_that_arrives_late_lies_between_its_neighbours_in_time() -> None:
    first, late, third, fourth = (f"/site/2026-03-0{day}/bridge/1.jpg" for day in range(1, 5))
    assert by_path([first, third], [late], same_root=True) == {late: first}
    assert by_path([first, third, late], [fourth], same_root=True) == {fourth: third}
    assert by_path([third], [late], same_root=True) == {}, "what came after it is not earlier"
    assert by_path([third], [late.replace("/site", "/old")]) == {late.replace("/site", "/old"): third}, (
        "as it was asked"
    )


def test_a_csv_names_photographs_by_whole_paths_or_unambiguous_ends() -> None:
    text = "\ufeffafter,before\nc/9.jpg,2.jpg\ns3://site/may/a/1.jpg,b/1.jpg\n"
    assert by_csv(text.encode(), "pairs.csv", BEFORE, AFTER) == {AFTER[2]: BEFORE[2], AFTER[0]: BEFORE[1]}


def places(**images: tuple[float, float, float]) -> pa.Table:
    """Photographs with metres east and north of a point in Berlin, and a heading."""
    rows = [
        {"image": name, "lat": 52.5 + north / 111_320, "lon": 13.4 + east / 67_769, "heading_deg": heading}
        for name, (east, north, heading) in images.items()
    ]
    return pa.Table.from_pylist(rows)


def test_the_nearest_earlier_photograph_with_about_the_same_heading_is_the_partner() -> None:
    before = places(
        wall=(0, 0, 350), next=(3, 0, 350), turned=(0.5, 0, 90), unknown=(0, 50, NAN), nowhere=(NAN, NAN, 0)
    )
    after = places(a=(0.6, 0.2, 5), b=(2.9, 0.5, 340), c=(1, 49, 200), d=(0, 200, 0), e=(NAN, NAN, 0), f=(0.4, 0, NAN))
    assert by_place(before, after, 5) == {"a": "wall", "b": "next", "c": "unknown", "f": "turned"}
    assert by_place(before, after, 0.3) == {"f": "turned"}
    assert by_place(before, before, 5) == {"wall": "next", "next": "wall"}, "no photograph is its own partner"
    assert by_place(before.slice(0, 0), after, 5) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("old,after\n", "has no column before"),
        ('before,after\n"' + 200_000 * "x", r"pairs.csv is no CSV in UTF-8 .field larger"),
        ("before,after\n2.jpg,\udc80.jpg\n", "pairs.csv is no CSV in UTF-8"),
        ("before,after\n1.jpg,c/9.jpg\n", r"line 2: before=1.jpg is the name of 2 photographs"),
        ("before,after\n2.jpg,8.jpg\n", r"line 2: after=8.jpg is no photograph"),
        ("before,after\n2.jpg,9.jpg\na/1.jpg,9.jpg\n", r"line 3: .*9.jpg has a second earlier photograph"),
    ],
)
def test_a_wrong_row_is_named(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        by_csv(text.encode(errors="surrogateescape"), "pairs.csv", BEFORE, AFTER)


def test_one_run_compared_with_itself_is_said_to_have_no_earlier_visit(tmp_path: Path) -> None:
    scores = bridge(tmp_path / "scores")
    with pytest.raises(
        StorageError, match=r"scores holds no photographs of an earlier visit, only those of its last run"
    ):
        crackvae.change(before=scores, after=scores, quiet=True)
    (tmp_path / "photographs").mkdir()
    with pytest.raises(StorageError, match=r"photographs holds no photographs of an earlier visit"):
        crackvae.change(before=tmp_path / "photographs", after=tmp_path / "photographs", out=tmp_path / "changes")
