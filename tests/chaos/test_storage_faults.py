"""A bucket that fails: whatever it does for a while, the table is in the end that of an undisturbed night.

A proxy of ours stands between the job and an S3 server on this machine. Scoring is in this process: what reads, retries
and writes is the same as on Ray.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from conftest import score_in_process
from files import one_line
from proxy import Fault, Proxy, Request, share
from rounds import Played, compared
from s3_server import SECRET, Server, filesystem, upload

from crackvae.config import ScoreConfig
from crackvae.errors import CrackvaeError
from crackvae.scoring.verb import score
from crackvae.storage import filesystems, tables

N_IMAGES = 24
EXPIRED, READ_ONLY = "400 ExpiredToken", "403 AccessDenied"


def from_request(n: int, behaviour: str, *, methods: str = "GET HEAD PUT POST DELETE", below: str = "") -> Fault:
    """A behaviour of all requests from the n-th of their kind on."""
    numbers = itertools.count(1)

    def fault(request: Request, _: object) -> str | None:
        is_meant = request.method in methods.split() and below in request.path
        return behaviour if is_meant and next(numbers) >= n else None

    return fault


STEADY: dict[str, Fault] = {
    **{f"HTTP 500 for {part:.0%} of the requests": share(part, "500 InternalError") for part in (0.01, 0.05, 0.2)},
    **{f"HTTP 503 for {part:.0%} of the requests": share(part, "503 SlowDown") for part in (0.01, 0.05, 0.2)},
    "connection reset within 5% of the bodies": share(0.05, "reset"),
    "connection closed within 5% of the bodies": share(0.05, "cut off"),
    "20% of the images truncated, with correct status and length": share(0.2, "short", images_only=True),
    "20% of the images at 10 kB/s": share(0.2, "drip", images_only=True),
    "all faults together": lambda request, chance: chance.choice(
        [None] * 16 + ["500 InternalError", "503 SlowDown", "reset", "short" if request.is_image else "cut off"]
    ),
}
BREAKING: dict[str, Callable[[int], Fault]] = {
    "credentials expire midway": lambda seed: from_request(20 + 3 * seed, EXPIRED),
    "bucket becomes read-only midway": lambda seed: from_request(2 + seed % 3, READ_ONLY, methods="PUT POST DELETE"),
    "access to images denied midway": lambda seed: from_request(3 + seed, READ_ONLY, methods="GET", below=".jpg"),
    "server unreachable midway": lambda seed: from_request(20 + 3 * seed, "reset"),
}
SHORT = (
    "HTTP 500 for 20% of the requests",
    "connection reset within 5% of the bodies",
    "20% of the images truncated, with correct status and length",
    "credentials expire midway",
    "bucket becomes read-only midway",
)
LONG_SEEDS = 10


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name in filesystems.ENDPOINT_VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "tester-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(filesystems, "FIRST_PAUSE_S", 0.02)
        score_in_process(patch)
        server = Server()
        between = Proxy(server.endpoint)
        between.client = filesystem(server)  # type: ignore[attr-defined]
        yield between
        between.stop()
        server.stop()


@pytest.fixture(scope="module")
def wanted(proxy: Proxy, drawn: Path, model_dir: Path) -> pa.Table:
    """The table of an undisturbed night, whose images lie in the bucket from now on."""
    client: pafs.S3FileSystem = proxy.client  # type: ignore[attr-defined]
    client.create_dir("nights")
    for number, image in enumerate(sorted(drawn.rglob("*.jpg"))[:N_IMAGES]):
        upload(client, f"night/{number:03d}.jpg", image.read_bytes())
    run(proxy, model_dir, "undisturbed")
    return rows(proxy, "undisturbed")


@pytest.fixture
def calm(proxy: Proxy) -> Iterator[Proxy]:
    """The proxy, which passes everything on before and after the test."""
    yield proxy
    proxy.fault, proxy.page = None, 1000


def run(proxy: Proxy, model_dir: Path, out: str, **more: Any) -> str:
    """One run; the one line with which it fails, or nothing."""
    settings = {"images": "s3://nights/night", "out": f"s3://nights/{out}", "s3_endpoint": proxy.endpoint}
    try:
        score(ScoreConfig(**settings, model=str(model_dir), quiet=True, no_report=True, max_unreachable="100%", **more))
    except CrackvaeError as error:
        return one_line(error)
    return ""


def rows(proxy: Proxy, out: str) -> pa.Table:
    """The latest row of each image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(filesystems.ENDPOINT_VARIABLES[0], proxy.endpoint)
        return tables.read_scores(f"s3://nights/{out}", tables.SCORES_SCHEMA.names)


def leave_locks(proxy: Proxy, out: str) -> None:
    """A lock that could not be deleted is taken over at once by another process; this one lives and would not be."""
    client: pafs.S3FileSystem = proxy.client  # type: ignore[attr-defined]
    for info in client.get_file_info(pafs.FileSelector(f"nights/{out}", allow_not_found=True)):
        if info.base_name.startswith("_lock-"):
            client.delete_file(info.path)


def play(proxy: Proxy, model_dir: Path, wanted: pa.Table, fault: tuple[str, Fault], out: str, played: Played) -> None:
    """A night with a fault, and another run when it is over, if it is needed."""
    proxy.fault = fault[1]
    failed = run(proxy, model_dir, out)
    proxy.fault = None
    over = time.monotonic()
    leave_locks(proxy, out)
    if failed or "unreachable" in rows(proxy, out)["status"].to_pylist():
        assert run(proxy, model_dir, out) == ""
    played.require_clean("storage", fault[0], compared(wanted, rows(proxy, out)), since=over)


@pytest.mark.parametrize("name", SHORT)
def test_a_bucket_that_fails_for_a_while_costs_no_row(
    name: str, calm: Proxy, model_dir: Path, wanted: pa.Table, played: Played
) -> None:
    fault = STEADY.get(name) or BREAKING[name](0)
    before = calm.behaved.copy()
    play(calm, model_dir, wanted, (name, fault), f"short-{name[:12].replace(' ', '-')}", played)
    assert sum((calm.behaved - before).values()) > (calm.behaved - before)["passed on"], "the fault was shown"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(LONG_SEEDS))
@pytest.mark.parametrize("name", [*STEADY, *BREAKING])
def test_whatever_a_bucket_does_for_a_while_costs_no_row(
    name: str, seed: int, calm: Proxy, model_dir: Path, wanted: pa.Table, played: Played
) -> None:
    calm._chance.seed(seed)
    fault = STEADY.get(name) or BREAKING[name](seed)
    play(calm, model_dir, wanted, (name, fault), f"long-{[*STEADY, *BREAKING].index(name)}-{seed}", played)


def test_a_listing_that_changes_while_it_is_listed_gives_each_image_a_row_in_the_end(
    calm: Proxy, model_dir: Path, wanted: pa.Table, played: Played
) -> None:
    client: pafs.S3FileSystem = calm.client  # type: ignore[attr-defined]
    with client.open_input_stream("nights/night/000.jpg") as stream:
        content = stream.read()
    pages = itertools.count(1)

    def fault(request: Request, _: object) -> None:
        if "list-type=2" in request.path:
            number = next(pages)
            upload(client, f"changing/{number:03d}.jpg", content)  # behind and before what is listed
            upload(client, f"changing/{900 + number}.jpg", content)
            if number > 2:
                client.delete_file(f"nights/changing/{number - 2:03d}.jpg")

    for number in range(100, 110):
        upload(client, f"changing/{number}.jpg", content)
    calm.page, calm.fault = 3, fault
    settings = {"model": str(model_dir), "s3_endpoint": calm.endpoint, "quiet": True, "no_report": True}
    night = ScoreConfig(images="s3://nights/changing", out="s3://nights/changed", max_unreachable="100%", **settings)
    score(night)
    calm.fault = None
    started = time.monotonic()
    score(night)
    names = [info.path for info in client.get_file_info(pafs.FileSelector("nights/changing"))]
    status = dict(zip(*(rows(calm, "changed")[name].to_pylist() for name in ("image", "status")), strict=True))
    lost = sum(status.get(f"s3://{name}") != "scored" for name in names)
    twice = rows(calm, "changed").num_rows - len(status)
    counts = {"lost": lost, "twice": twice, "wrong": 0}
    played.require_clean("storage", "folder changes while it is listed", counts, since=started)


def test_storage_that_expires_while_it_is_read_says_so_in_the_rows_and_leaks_no_secret(
    calm: Proxy, model_dir: Path, wanted: pa.Table
) -> None:
    calm.fault = from_request(5, EXPIRED, methods="GET", below=".jpg")
    assert run(calm, model_dir, "expired") == ""
    reasons = set(rows(calm, "expired").filter(pa.compute.field("status") == "unreachable")["error"].to_pylist())
    assert reasons and all("EXPIRED" in reason.upper() and SECRET not in reason for reason in reasons), reasons
