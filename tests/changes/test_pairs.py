"""Which earlier photograph shows the place of a later one."""

import pytest

from crackvae.changes.pairs import by_csv, by_path
from crackvae.errors import ManifestError

BEFORE = ["/2025/bridge/a/1.jpg", "/2025/bridge/b/1.jpg", "/2025/bridge/b/2.jpg"]
AFTER = ["s3://site/may/a/1.jpg", "s3://site/may/b/1.jpg", "s3://site/may/c/9.jpg"]


def test_photographs_with_the_same_path_below_their_visit_are_pairs() -> None:
    assert by_path(BEFORE, AFTER) == {AFTER[0]: BEFORE[0], AFTER[1]: BEFORE[1]}


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
