"""The key of what a file contains."""

from pathlib import Path

import numpy as np
import pytest

from crackvae.storage.content import BLOCK_BYTES, BLOCKS, changed, content_key

LARGEST_WHOLE = BLOCKS * BLOCK_BYTES


@pytest.mark.parametrize("n_bytes", [0, 1, LARGEST_WHOLE, LARGEST_WHOLE + 1, 5 * LARGEST_WHOLE + 7])
def test_a_file_has_the_key_of_its_bytes(tmp_path: Path, n_bytes: int) -> None:
    data = np.random.default_rng(n_bytes).bytes(n_bytes)
    path = tmp_path / "one.jpg"
    path.write_bytes(data)
    assert changed([str(path)], [content_key(data)]).tolist() == [False]
    path.write_bytes(data + b"0")
    assert changed([str(path)], [content_key(data)]).tolist() == [True]


@pytest.mark.parametrize("n_bytes", [100, 5 * LARGEST_WHOLE])
def test_files_of_one_size_that_differ_everywhere_have_different_keys(n_bytes: int) -> None:
    assert len({content_key(np.random.default_rng(seed).bytes(n_bytes)) for seed in range(50)}) == 50


def test_a_change_of_any_byte_of_a_small_file_and_of_the_ends_of_a_large_one_is_seen() -> None:
    small, large = bytes(1000), bytes(10 * LARGEST_WHOLE)
    for data, places in ((small, range(0, 1000, 37)), (large, (0, BLOCK_BYTES - 1, len(large) - 1))):
        for place in places:
            other = bytearray(data)
            other[place] = 1
            assert content_key(other) != content_key(data)


def test_archives_and_object_stores_are_not_read(tmp_path: Path) -> None:
    images = [
        f"{tmp_path}/night.zip!/1.jpg",
        "s3://bucket/1.jpg",
        str(tmp_path / "gone.jpg"),
        str(tmp_path / "gone.jpg"),
    ]
    assert changed(images, ["key", "key", "key", ""]).tolist() == [False, False, True, False]


def test_a_page_has_the_key_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    path.write_bytes(b"pages")
    assert changed([f"{path}!/page=2"], [content_key(b"pages")]) == [False]
