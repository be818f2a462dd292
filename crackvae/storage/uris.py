"""Paths and URIs as text, and errors that name them.

Everywhere in this package a `path` is a local path or a URI (`s3://`, `gs://`, `abfs://`, `file://`). Credentials are
never part of one: they come from the environment of each process, so that no table, log or message can contain them.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from crackvae.errors import ConfigError, StorageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")

# A file of this machine, as browsers and file managers write it.
_FILE = re.compile(r"file://(?:localhost)?(?P<path>/.*)", re.DOTALL | re.IGNORECASE)

# Options that a URI may end with, `?region=eu-central-1&scheme=https`, and how pyarrow names them; no secrets.
OPTIONS = {
    "s3": (
        "region",
        "scheme",
        "endpoint_override",
        "tls_ca_file_path",
        "tls_verify_certificates",
        "allow_delayed_open",
    ),
    "gs": ("scheme", "endpoint_override", "retry_limit_seconds", "project_id"),
    "abfs": ("enable_tls", "blob_storage_authority", "dfs_storage_authority", "tenant_id", "client_id"),
}
OPTIONS["s3"] += ("allow_bucket_creation", "allow_bucket_deletion")
OPTIONS |= {"gcs": OPTIONS["gs"], "abfss": OPTIONS["abfs"]}


# The rest of a URI is taken literally: a key may contain `%`, `#` or `?`, or what looks like an unknown option.
_OPTION = rf"(?:{'|'.join(sorted({name for names in OPTIONS.values() for name in names}))})=[^?&]*"
_URI = re.compile(rf"(?P<address>[a-z0-9]+://[^/?]*)/?(?P<key>.*?)(?P<options>\?{_OPTION}(?:&{_OPTION})*)?", re.DOTALL)
_LOOKS_LIKE_OPTIONS = re.compile(r"\?(?:\w+=[^?&]*)(?:&\w+=[^?&]*)*\Z")

# A colon in the address that no port number follows separates a name from its secret, which may contain a slash.
_SECRET = re.compile(r"[^:]*://[^/?]*:(?!\d*([/?]|$))|.*\?.*secret=", re.DOTALL)

# What a server or a client library may repeat of a request: a name and password, a key, a signature, a token.
_SHOWN_SECRET = re.compile(
    r"(?<=://)[^/\s@]*:[^\s@]*(?=@)"
    r"|(?i:(?<=signature=)|(?<=credential=)|(?<=token=)|(?<=secret_key=)|(?<=sig=))[^&\s'\"]+"
)

SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_CLIENT_SECRET",
)


def is_local(path: str) -> bool:
    """Whether a path belongs to this machine, that is, is not a URI."""
    return not _SCHEME.match(path)


def absolute(path: str, *, is_listed: bool = False) -> str:
    """The path in the one form that tables contain: an absolute local path, or a URI without a trailing slash.

    Args:
        is_listed: the path stands in a list of images, where a key may look as if it had options.

    Raises:
        ConfigError: no path at all, a URI of another kind of storage, or one with an option that does not exist.
    """
    if found := _FILE.fullmatch(path):  # as in other URIs, `#` and `?` belong to the name
        path = unquote(found["path"], errors="surrogateescape")
    if not path:  # an unset variable of a shell; the current folder is written as a dot
        raise ConfigError("a path is empty: give a folder, a file or a URI.")
    shown = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    if "\0" in path:
        raise ConfigError(
            f"the path {shown!r} contains a zero byte, which no file name can: check --config or the list."
        )
    if shown != path:
        raise ConfigError(f"the path {shown} is not UTF-8, as the tables that would contain it are: rename the folder.")
    if is_local(path):
        return os.path.abspath(os.path.expanduser(path))
    path = _SCHEME.sub(lambda scheme: scheme[0].lower(), path, count=1)
    if path.startswith("file://"):
        raise ConfigError(f"{path} names no file of this machine: write it with three slashes, file:///folder.")
    uri = "".join(without_options(path))
    _require_known_scheme(uri)
    if not is_listed:
        _require_known_options(path)
    return uri


def _require_known_scheme(uri: str) -> None:
    scheme = uri.partition("://")[0]
    if scheme not in OPTIONS:
        raise ConfigError(
            f"{uri}: {scheme}:// cannot be read: copy it to a disk or a bucket, and give a path or an s3://, gs:// or "
            "abfs:// URI."
        )


def _require_known_options(uri: str) -> None:
    address, key, options = split_uri(uri)
    known = OPTIONS.get(address.partition(":")[0], ())
    text = options or (_LOOKS_LIKE_OPTIONS.search(f"{address}/{key}") or [""])[0]
    names = [option.partition("=")[0] for option in text.removeprefix("?").split("&") if option]
    unknown = next((name for name in names if name not in known), None)
    if unknown and known:
        raise ConfigError(f"{uri}: {unknown} is not an option of a URI of this kind: it may have {', '.join(known)}.")


def join(folder: str, name: str) -> str:
    """The path of a file in a folder; options of a URI stay at its end."""
    bare, options = without_options(folder)
    return f"{bare.rstrip('/')}/{name}{options}"


def parent(path: str) -> str:
    """The folder of a file; options of a URI stay at its end."""
    bare, options = without_options(path)
    return str(PurePosixPath(path).parent) if is_local(path) else bare.rpartition("/")[0] + options


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that contains all paths or is one of them; "" if they are on different storage."""
    split = [without_options(path)[0].split("/") for path in paths]
    common = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*split, strict=False)))
    folder = "/".join(parts[0] for parts in common)
    if is_local(paths[0]):
        return folder or ("/" if common else "")
    return folder if len(common) > 2 else ""  # s3: and the bucket


def require_regular(path: str) -> None:
    """Raise OSError for a local path that is a pipe, a socket or a device: opening or reading it may wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def relative(image: str, root: str) -> str:
    """Name of an image below the folder or archive in which it was listed, `Negative/1.jpg`; else its whole path."""
    image, root = without_options(image)[0], without_options(root)[0]
    below = image.removeprefix(root)
    if root != "/" and below[:1] not in ("", "/") and not below.startswith("!/"):
        below = image  # `/data/night2` is not below `/data/night`
    return below.removeprefix("!/").lstrip("/") or PurePosixPath(image).name


def split_uri(uri: str) -> tuple[str, str, str]:
    """`s3://bucket`, `key`, `?options` of a URI; refuses secrets, because URIs are written into tables and logs."""
    if _SECRET.match(uri):
        raise ConfigError("a URI with a password would be written into every table: put it into the environment.")
    match = _URI.fullmatch(uri)
    if not match or match["address"].endswith("://"):
        scheme = uri.partition("://")[0]
        example = "container@account.dfs.core.windows.net" if scheme.startswith("abfs") else "bucket"
        raise ConfigError(f"{uri} names no bucket: write it as {scheme}://{example}/folder.")
    return match["address"], match["key"], match["options"] or ""


def without_options(path: str) -> tuple[str, str]:
    """`s3://bucket/key` and `?options` of a URI; a local path has no options."""
    if is_local(path):
        return path, ""
    address, key, options = split_uri(path)
    return f"{address}/{key}".rstrip("/"), options


# ------------------------------------------------------------------------------------------------------ errors


def reason(error: BaseException) -> str:
    """What an operating system or a client library says, in one line, without what it may repeat of a credential."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = _SHOWN_SECRET.sub("***", text)
    for name in SECRET_VARIABLES:
        if len(os.environ.get(name, "")) >= 4:  # shorter ones are a test's, and words of a sentence
            text = text.replace(os.environ[name], "***")
    return " ".join(text.split())[:300] or type(error).__name__


_HINTS = {
    errno.ENOSPC: "Free some space, or write somewhere else.",
    errno.EDQUOT: "Free some space, or write somewhere else.",
    errno.EFBIG: "Raise the limit with ulimit -f, or write to another file system.",
    errno.EACCES: "Give this user the right to it, or choose another path.",
    errno.EPERM: "Give this user the right to it, or choose another path.",
    errno.EROFS: "The disk is mounted read-only: choose another path.",
    errno.ENOENT: "Check the spelling; is the disk mounted?",
    errno.ENOTDIR: "Part of that path is a file where a folder is needed: choose another path.",
    errno.EISDIR: "It is a folder where a file is needed: name the file in it, or choose another path.",
    errno.EEXIST: "A file has the name of the folder that is needed: choose another path.",
    errno.ENOTEMPTY: "Another job wrote it in the meantime: choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its symbolic links form a loop: correct them, or name the folder itself.",
    errno.EMFILE: "Too many files are open: raise the limit with ulimit -n.",
}


def _hint(error: BaseException, path: str) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in _HINTS:
        return _HINTS[code]
    return "Check the disk." if is_local(path) else "Check the address, the credentials and the network."


@contextmanager
def storage_errors(doing: str, path: str) -> Iterator[None]:
    """Turn what pyarrow and the operating system raise into one StorageError that names the path."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        where = str(getattr(error, "filename", None) or path)
        if ".tmp" in where:  # the name of a half-written file means nothing to a user
            where = path
        raise StorageError(f"cannot {doing} {where}: {reason(error)}. {_hint(error, path)}") from error
