"""Addresses: one form, no secrets, letter by letter."""

import errno
import os
import re

import pytest
from files import one_line
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crackvae.errors import ConfigError, StorageError
from crackvae.storage import fileio, uris
from crackvae.storage.listing import list_images

few = settings(derandomize=True, deadline=None, max_examples=60)


def test_a_name_is_relative_to_what_was_listed(tmp_path):
    assert uris.relative("/data/Negative/1.jpg", "/data") == "Negative/1.jpg"
    assert uris.relative("/1.jpg", "/") == "1.jpg"
    assert uris.relative("/data/1.jpg", "/data/1.jpg") == "1.jpg"
    assert uris.relative("/data/a.zip!/Negative/1.jpg", "/data/a.zip") == "Negative/1.jpg"
    assert uris.relative("s3://bucket/k/1.jpg?region=x", "s3://bucket/k?region=x") == "1.jpg"


def test_a_place_has_one_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uris.absolute("a/../b/") == str(tmp_path / "b")
    assert uris.absolute(f"file://{tmp_path}/a%20b") == str(tmp_path / "a b")
    assert uris.absolute("s3://bucket/folder/") == "s3://bucket/folder"
    assert uris.absolute("s3://bucket/folder/?region=x") == "s3://bucket/folder?region=x"


@pytest.mark.parametrize("start", ["file://", "file://localhost", "FILE://"])
def test_a_file_uri_is_a_path_with_percent_escapes(start):
    assert uris.absolute(f"{start}/a b/c%20d") == "/a b/c d"
    assert uris.absolute(f"{start}/night #2/100 %/what?") == "/night #2/100 %/what?"


@pytest.mark.parametrize("uri", ["file://host/a", "file://a", "file://"])
def test_a_file_uri_of_another_machine_is_refused(uri):
    with pytest.raises(ConfigError, match="names no file of this machine"):
        uris.absolute(uri)


def test_a_file_uri_is_checked_like_the_path_that_it_is():
    with pytest.raises(ConfigError, match="zero byte"):
        uris.absolute("file:///a%00b")
    with pytest.raises(ConfigError, match="not UTF-8"):
        uris.absolute("file:///a%FFb")


def test_a_scheme_is_known_in_any_case_or_refused():
    assert uris.absolute("S3://Bucket/Key") == "s3://Bucket/Key"
    with pytest.raises(ConfigError, match="http:// cannot be read: copy it"):
        uris.absolute("http://host/a.jpg")


@few
@given(st.text(min_size=1))
def test_a_key_is_taken_letter_by_letter(key):
    assume(not re.search(r"\?[a-z_]+=[^/?]*\Z", key))
    assert uris.split_uri(f"s3://bucket/{key}") == ("s3://bucket", key, "")
    assert uris.split_uri(f"s3://bucket/{key}?region=x") == ("s3://bucket", key, "?region=x")


@pytest.mark.parametrize("key", ["a%20b.jpg", "a#b.jpg", "a?b.jpg", "a b.jpg", "what?/a.jpg", "a:b@c.jpg", "deep/er"])
def test_a_key_is_not_decoded(key):
    assert uris.split_uri(f"gs://bucket/{key}") == ("gs://bucket", key, "")


@few
@given(st.text(st.characters(exclude_characters="?", exclude_categories=["Cs"]), min_size=1))
def test_a_name_joined_to_a_place_comes_back_out(name):
    assume(name.strip("/") == name)
    for root in ["/data", "s3://bucket", "s3://bucket/images?region=x"]:
        assert uris.relative(uris.join(root, name), root) == name


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
    for call in (list_images, uris.absolute, fileio.exists, fileio.read_bytes):
        with pytest.raises(ConfigError, match="put it into the environment") as caught:
            call(uri)
        assert "hunter2" not in str(caught.value)


def test_a_port_is_not_a_password():
    assert uris.split_uri("abfs://container@127.0.0.1:10000/a.jpg")[1] == "a.jpg"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOTDIR, "a file where a folder is needed"),
        (errno.EISDIR, "a folder where a file is needed"),
        (errno.EEXIST, "has the name of the folder"),
        (errno.EROFS, "mounted read-only"),
        (errno.ENOSPC, "Free some space"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_the_hint_fits_what_is_wrong(code, hint):
    with (
        pytest.raises(StorageError, match=f"cannot write /data/out: .*{hint}"),
        uris.storage_errors("write", "/data/out"),
    ):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("uri", ["gs://", "gs:///folder"])
def test_the_hint_for_a_uri_without_a_bucket_keeps_its_scheme(uri):
    with pytest.raises(ConfigError, match=r"write it as gs://bucket/folder"):
        uris.split_uri(uri)


@pytest.mark.parametrize("place", ["/data/nig\0ht", "night\0"])
def test_a_zero_byte_in_a_path_is_refused(place):
    with pytest.raises(ConfigError, match="contains a zero byte") as caught:
        uris.absolute(place)
    assert "\0" not in one_line(caught.value)


def test_a_folder_whose_name_is_not_utf_8_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"/data/caf\\xe9 is not UTF-8.*rename the folder"):
        uris.absolute(os.fsdecode(b"/data/caf\xe9"))


def test_a_neighbour_with_a_longer_name_is_not_below_a_folder():
    assert uris.relative("/data/night2/1.jpg", "/data/night") == "data/night2/1.jpg"
    assert uris.relative("/1.jpg", "/") == "1.jpg"


def test_no_secret_is_repeated(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2secret")
    said = (
        "GET https://me:hunter2@host/?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2&sig=hunter2 hunter2secret: 403"
    )
    assert "hunter2" not in uris.reason(OSError(said)) and "403" in uris.reason(OSError(said))


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("s3://b/n?region=eu-central-1", "?region=eu-central-1"),
        ("s3://b/n?tls_ca_file_path=/etc/ca.pem&region=x", "?tls_ca_file_path=/etc/ca.pem&region=x"),
        ("s3://b/n?x=1.jpg", ""),
        ("s3://b/n?region.jpg", ""),
        ("gs://b/n?retry_limit_seconds=5", "?retry_limit_seconds=5"),
    ],
)
def test_only_a_known_option_is_an_option_and_its_value_may_have_slashes(uri, options):
    assert uris.split_uri(uri)[2] == options and uris.without_options(uri)[1] == options


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://b/n?regoin=eu", "regoin is not an option"),
        ("s3://b/n?region=eu&verify=no", "verify is not an option"),
        ("s3://b/n?ca_file=/etc/ca.pem", "ca_file is not an option"),
        ("gs://b/n?region=eu", "region is not an option"),
        ("gcs://b/n?token=1", "token is not an option"),
        ("abfs://c@a.dfs.core.windows.net/n?region=eu", "region is not an option"),
    ],
)
def test_an_unknown_option_of_a_path_that_the_user_gives_is_named_with_the_known_ones(uri, named):
    with pytest.raises(ConfigError, match=named) as caught:
        uris.absolute(uri)
    assert uris.OPTIONS[uri.partition(":")[0]][0] in one_line(caught.value)
    assert uris.absolute(uri, is_listed=True).startswith(uri.partition("?")[0])
