"""Which earlier photograph shows the place of a later one."""

import pytest

from crackvae.changes.pairs import by_csv, by_path
from crackvae.errors import ManifestError

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


def test_a_csv_names_photographs_by_whole_paths_or_unambiguous_ends() -> None:
    text = "\ufeffafter,before\nc/9.jpg,2.jpg\ns3://site/may/a/1.jpg,b/1.jpg\n"
    assert by_csv(text, "pairs.csv", BEFORE, AFTER) == {AFTER[2]: BEFORE[2], AFTER[0]: BEFORE[1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("old,after\n", "has no column before"),
        ("before,after\n1.jpg,c/9.jpg\n", r"line 2: before=1.jpg is the name of 2 photographs"),
        ("before,after\n2.jpg,8.jpg\n", r"line 2: after=8.jpg is no photograph"),
        ("before,after\n2.jpg,9.jpg\na/1.jpg,9.jpg\n", r"line 3: .*9.jpg has a second earlier photograph"),
    ],
)
def test_a_wrong_row_is_named(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        by_csv(text, "pairs.csv", BEFORE, AFTER)
