"""Addresses: one form, no secrets, letter by letter."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crackvae import places, storage
from crackvae.errors import ConfigError, StorageError
from crackvae.listing import list_images

few = settings(derandomize=True, deadline=None, max_examples=60)


def test_a_name_is_relative_to_what_was_listed(tmp_path):
    assert storage.relative("/data/Negative/1.jpg", "/data") == "Negative/1.jpg"
    assert storage.relative("/1.jpg", "/") == "1.jpg"
    assert storage.relative("/data/1.jpg", "/data/1.jpg") == "1.jpg"
    assert storage.relative("/data/a.zip!/Negative/1.jpg", "/data/a.zip") == "Negative/1.jpg"
    assert storage.relative("s3://bucket/k/1.jpg?region=x", "s3://bucket/k?region=x") == "1.jpg"


def test_a_place_has_one_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b/") == str(tmp_path / "b")
    assert storage.absolute(f"file://{tmp_path}/a%20b") == str(tmp_path / "a b")
    assert storage.absolute("s3://bucket/folder/") == "s3://bucket/folder"
    assert storage.absolute("s3://bucket/folder/?region=x") == "s3://bucket/folder?region=x"


def test_a_file_uri_that_is_no_uri_is_named():
    with pytest.raises(StorageError, match="cannot look at file:///a b"):
        storage.absolute("file:///a b")


@few
@given(st.text(min_size=1))
def test_a_key_is_taken_letter_by_letter(key):
    assume(not re.search(r"\?[a-z_]+=[^/?]*\Z", key))
    assert places.split_uri(f"s3://bucket/{key}") == ("s3://bucket", key, "")
    assert places.split_uri(f"s3://bucket/{key}?region=x") == ("s3://bucket", key, "?region=x")


@pytest.mark.parametrize("key", ["a%20b.jpg", "a#b.jpg", "a?b.jpg", "a b.jpg", "what?/a.jpg", "a:b@c.jpg", "deep/er"])
def test_a_key_is_not_decoded(key):
    assert places.split_uri(f"gs://bucket/{key}") == ("gs://bucket", key, "")


@few
@given(st.text(st.characters(exclude_characters="?", exclude_categories=["Cs"]), min_size=1))
def test_a_name_joined_to_a_place_comes_back_out(name):
    assume(name.strip("/") == name)
    for root in ["/data", "s3://bucket", "s3://bucket/images?region=x"]:
        assert storage.relative(storage.join(root, name), root) == name


@pytest.mark.parametrize(
    "uri",
    [
        "s3://name:hunter2@bucket/folder",
        "S3://name:hunter2@bucket/folder",
        "s3://name:hun/hunter2@bucket/folder",
        "abfs://:hunter2@account/folder",
        "abfs://container@account/folder?client_secret=hunter2",
    ],
)
def test_a_password_in_a_uri_is_refused_without_being_shown(uri):
    for call in (list_images, storage.absolute, storage.exists, storage.read_bytes):
        with pytest.raises(ConfigError, match="put it into the environment") as caught:
            call(uri)
        assert "hunter2" not in str(caught.value)


def test_a_port_is_not_a_password():
    assert places.split_uri("abfs://container@127.0.0.1:10000/a.jpg")[1] == "a.jpg"
