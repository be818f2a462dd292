"""Settings of the verbs that score images: calibrate, evaluate, score, live, nightly and change."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from crackvae.config.common import (
    BUILTIN,
    EXCLUDE,
    GPS_PRECISION,
    MIRRORS,
    MODEL,
    PERCENTILE,
    PUBLISHED_PERCENTILE,
    ScoringConfig,
    VerbConfig,
    mail_problem,
    new_model_problem,
    without_effect,
)
from crackvae.config.settings import (
    Location,
    Locations,
    flag,
    flag_text,
    group_by_problem,
    is_date,
    limit_of,
    metres_of,
    setting,
    shard_numbers,
    time_of,
)
from crackvae.errors import ConfigError

# Calibration takes logarithms of a rate and of its complement.
RATE: dict[str, Any] = {"ge": 1e-9, "le": 1 - 1e-9, "must": "lie between 0 and 1"}
LONGEST_S = 1e9  # some thirty years: systems cannot wait much longer
# Schemes of addresses that `live` opens.
STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "http", "https", "tcp", "udp", "rtp")
TWO_LIMITS = "be two increasing limits, such as 0.1,0.25"

# Limits of width classes [mm]. Both tables are guidance for the design of reinforced concrete, by exposure, and no
# judgement of a crack that is there: ACI 224R-01, table 4.1, and EN 1992-1-1:2004, table 7.1N.
WIDTH_CLASSES: Mapping[str, tuple[float, ...]] = {
    "ACI-224R": (0.10, 0.15, 0.18, 0.30, 0.41),
    "EN-1992-1-1": (0.2, 0.3, 0.4),
}


def width_limits_of(text: str) -> tuple[float, ...]:
    """Limits of width classes [mm] from the name of a table or from numbers such as `0.1,0.2,0.5`."""
    try:
        limits = WIDTH_CLASSES.get(text) or tuple(float(part) for part in text.split(","))
    except ValueError:
        limits = ()
    if not limits or not all(0 < low < high < math.inf for low, high in pairwise((*limits, 1e9))):
        raise ConfigError(
            f"width_classes={text} must be {' or '.join(WIDTH_CLASSES)}, or ascending limits in mm such as 0.1,0.2,0.5."
        )
    return limits


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(ScoringConfig):
    """Set a model's threshold from the scores of sound images that it was not trained on."""

    model: Location = setting(MODEL, BUILTIN)
    out: Location = setting(
        "new model directory with the same weights; needed for builtin; default: the calibration.json of the model is "
        "replaced",
        "",
    )
    manifest: Location = setting("manifest.parquet whose val non_crack images are scored", "")
    images: Location = setting("alternatively, a folder, .zip or URI of sound images only", "")
    exclude: tuple[str, ...] = setting(EXCLUDE, ())
    percentile: float | None = setting(
        f"percentile of sound scores used as threshold; default: {PUBLISHED_PERCENTILE:g}", None, **PERCENTILE
    )
    max_false_alarm: float | None = setting(
        "instead of --percentile: the maximum share of sound images flagged, such as 0.01", None, **RATE
    )
    confidence: float | None = setting(
        "confidence with which --max-false-alarm holds, such as 0.95; default: it holds on average", None, **RATE
    )
    mirrors: int | None = setting(f"{MIRRORS}; default: those of the model; needs --out", None, ge=1, le=4)
    one_per_group: bool = setting("use one random image per group; the guarantee assumes independence", False)
    seed: int = setting("random seed of --one-per-group", 0, ge=0)
    verdicts: Location = setting(
        "CSV downloaded from a page, or folder of scores with a log of verdicts; images labelled crack by a reviewer "
        "are excluded",
        "",
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if bool(self.manifest) == bool(self.images):
            yield "calibrate needs either --manifest or --images, and not both."
        if self.model == BUILTIN and not self.out:
            yield "the built-in model stays as it is: give --out for a copy of it with the new threshold."
        if self.mirrors is not None and not self.out:
            yield "--mirrors makes another model of the same weights: give --out for it."
        yield from new_model_problem(self.out)
        if self.manifest:
            yield from without_effect(self, ("exclude",), "with --manifest, whose images are given")
        if self.percentile is not None and self.max_false_alarm is not None:
            yield "give either --percentile or --max-false-alarm: each sets the threshold."
        if self.confidence is not None and self.max_false_alarm is None:
            yield "--confidence needs --max-false-alarm: a percentile guarantees no rate."


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ScoringConfig):
    """Measure how well a model separates cracks from sound concrete, on a labelled split and the external set."""

    manifest: Location = setting("manifest.parquet written by partition")
    model: Location = setting(MODEL, BUILTIN)
    out: Location = setting("folder to write metrics and predictions to; must not exist yet")
    split: Literal["val", "test"] = setting(
        "internal split to evaluate: val or test", "test", must="be val or test", why=": train holds no cracks"
    )
    masks: Location = setting(
        "folder of masks named like the cracked images, white where cracked; adds metrics of the anomaly maps", ""
    )
    one_per_group: bool = setting("use one random image per group, so that the images are independent", False)
    resamples: int = setting(
        "bootstrap resamples of the groups, for 95 % intervals", 1000, ge=100, why=" for a 95 % interval"
    )
    seed: int = setting("random seed of the bootstrap and of --one-per-group", 0, ge=0)
    no_report: bool = setting("do not write a page", False)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ScoringConfig):
    """Score every image once; each image ends in one row of the scores table, whatever happens to it."""

    images: Locations = setting(
        "image, folder, .zip or URI of images, or several; with wildcards (2026-*/); or @FILE, a text, CSV or "
        "Parquet list of images",
        lengths=range(1, 2**31),
        must="name at least one image or folder",
        positional=True,
    )
    model: Location = setting(MODEL, BUILTIN)
    out: Location = setting("folder of the scores table; a rerun adds what is missing; one run at a time", "scores")
    since: str = setting(
        "only images modified at or after this time: 2026-11-23, or 2026-11-23T18:00 [UTC, or with +01:00]", ""
    )
    prefix: str = setting("only images whose path below --images starts with this: 2026-11-2, or bridge-7/", "")
    exclude: tuple[str, ...] = setting(EXCLUDE, ())
    shard: str = setting(
        "only part I of N of the images, such as 3/8, so that N jobs share one --out; then run report once", ""
    )
    format: tuple[Literal["parquet", "csv"], ...] = setting(
        "parquet, or parquet,csv", ("parquet",), must="be parquet or parquet,csv", why=": a rerun reads Parquet"
    )
    every: float | None = setting(
        "also score videos (mp4, mov, mkv, ...): one frame every so many seconds, such as 0.5", None, gt=0
    )
    group_by: str = setting("group of each row: parent (folder), none, or a regular expression on the path", "parent")
    findings: Literal["on", "off"] = setting(
        "on: trace the cracks of flagged images, one row each, in the folder _findings of --out",
        "on",
        must="be on or off",
    )
    joints: Literal["apart", "ignore"] = setting(
        "apart: joints are findings of a kind of their own; ignore: an image is not flagged for a joint alone",
        "apart",
        must="be apart or ignore",
    )
    mm_per_px: float | None = setting("scale of every photograph, for findings in millimetres", None, gt=0)
    mm_table: Location = setting(
        "CSV with the scales of single photographs or groups: columns image or group, and mm_per_px", ""
    )
    distance: float | None = setting(
        "distance from the camera to the surface [m]: with the focal length of a photograph it gives the scale",
        None,
        gt=0,
        le=1000,
    )
    width_classes: str = setting(
        "table of crack widths that findings are classed by: EN-1992-1-1 (table 7.1N) or ACI-224R (table 4.1), both "
        "guidance for design; or limits in mm, 0.1,0.2,0.5",
        "EN-1992-1-1",
    )
    max_false_discovery: float | None = setting(
        "also list the images of which at most this share is expected to be sound, such as 0.1", None, gt=0, lt=1
    )
    max_unreadable: str = setting(
        "maximum unreadable images, of those listed (nightly: of the night), before the exit code is 2: a count (5) or "
        "a share (1%)",
        "10%",
    )
    max_unreachable: str = setting("the same for images that could not be fetched from storage", "10%")
    gps_precision: str = setting(f"on the page: {GPS_PRECISION}", "")
    no_report: bool = setting("do not write a page", False)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if "parquet" not in self.format:
            yield f"format={flag_text(self.format)} must be parquet or parquet,csv: a rerun reads Parquet."
        limit_of(self.max_unreadable, 0)
        limit_of(self.max_unreachable, 0)
        metres_of(self.gps_precision)
        time_of(self.since)
        if shard_numbers(self.shard) and self.max_false_discovery is not None:
            yield "--max-false-discovery needs all images of a night: leave out --shard."
        if self.findings == "off":
            yield from without_effect(self, ("joints",), "with --findings off, which traces neither cracks nor joints")
        yield from group_by_problem(self.group_by)
        width_limits_of(self.width_classes)


@dataclass(frozen=True, kw_only=True)
class LiveConfig(VerbConfig):
    """Score what a camera sends, or files as they arrive in a folder, until Ctrl-C or SIGTERM.

    A frame that comes while another one is scored is dropped and counted; files are all scored. Flagged frames are
    saved with their anomaly maps at once, and a status page on this machine shows the last picture.
    """

    source: Location = setting(
        "address of a stream (rtsp://, rtmp://, srt://, http://, tcp://, udp://), camera (/dev/video0), or folder that "
        "files arrive in",
        positional=True,
    )
    model: Location = setting(MODEL, BUILTIN)
    out: Location = setting("folder of the scores table; one run at a time", "scores")
    every: float | None = setting(
        "score at most one frame every so many seconds; default: as many as this machine can", None, gt=0
    )
    seconds: float | None = setting("end after so many seconds; default: when stopped", None, gt=0, le=LONGEST_S)
    port: int = setting("port of the status page on 127.0.0.1; 0 for any free one", 8791, ge=0, le=65_535)

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        scheme, is_stream, _ = self.source.partition("://")
        if is_stream and scheme.lower() not in STREAMS:
            yield f"a source {scheme}:// is not known: give a folder, /dev/videoN or one of {', '.join(STREAMS)}."
        if self.every is not None and not is_stream and not self.source.startswith("/dev/"):
            yield "--every is for cameras and streams: every file of a folder is scored."


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(ScoreConfig):
    """Score new images, compare the night with the calibration and summarise it; exit code 2 if a limit is broken."""

    shard: ClassVar[str] = ""  # type: ignore[misc]  # no setting of a night: its verdict needs all of its images
    out: Location = setting("folder of the scores table; a rerun adds what is missing; one run at a time")
    shadow_model: Location = setting(
        "challenger, a model directory: it scores what --model has scored, into _shadow/ in --out, and flags nothing",
        "",
    )
    night: str = setting("date that the runs count towards, YYYY-MM-DD; default: today in --time-zone", "")
    time_zone: str = setting("time zone of the date of a night, such as Europe/London", "UTC")
    min_images: int = setting("fewer scored images of this night break the limit", 0, ge=0)
    fail_on: Literal["watch", "alarm"] = setting("level of drift that breaks the limit: watch or alarm", "alarm")
    drift_psi: tuple[float, ...] = setting(
        "population stability index in excess of random variation: WATCH,ALARM",
        (0.1, 0.25),
        gt=0,
        lengths=(2,),
        must=TWO_LIMITS,
    )
    drift_ks: tuple[float, ...] = setting(
        "Kolmogorov-Smirnov distance in excess of random variation: WATCH,ALARM",
        (0.1, 0.2),
        gt=0,
        lengths=(2,),
        must=TWO_LIMITS,
    )
    drift_unreadable: tuple[float, ...] = setting(
        "share of unreadable images: WATCH,ALARM", (0.01, 0.05), gt=0, lengths=(2,), must=TWO_LIMITS
    )
    drift_flagged: float = setting(
        "increase of the share of flagged images over ordinary nights that raises an alarm",
        0.02,
        ge=0,
        lt=1,
        must="be a share from 0 to 1, such as 0.02",
    )
    drift_min_images: int = setting(
        "minimum number of scored images for a comparison", 50, ge=20, why=" to tell drift from random variation"
    )
    no_changes: bool = setting(
        "do not compare the findings with those on earlier photographs of the same path without its dates", False
    )
    linger: int = setting(
        "time to stay connected at the end so that Prometheus scrapes the last values [s]", 0, ge=0, le=3600
    )
    webhook: bool = setting("post the outcome to the address in CRACKVAE_WEBHOOK_URL, as JSON that Slack takes", False)
    mail_to: tuple[str, ...] = setting("send the outcome by e-mail to these addresses", ())
    mail_from: str = setting("address of the sender of the e-mail", "")
    mail_server: str = setting(
        "SMTP server, HOST:PORT; name and password from CRACKVAE_SMTP_USER and CRACKVAE_SMTP_PASSWORD", "localhost:25"
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.night and not is_date(self.night):
            yield f"night={self.night} is not a date: write it as 2026-11-23."
        yield from mail_problem(self.mail_to, self.mail_from, self.mail_server)
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield f"time_zone={self.time_zone} is not a time zone: write it as UTC or Europe/London."
        for name in ("drift_psi", "drift_ks", "drift_unreadable"):
            watch, alarm = getattr(self, name)
            if watch > alarm:
                yield f"{flag(name)} {watch:g},{alarm:g} must {TWO_LIMITS}."


@dataclass(frozen=True, kw_only=True)
class ChangeConfig(ScoringConfig):
    """Compare the findings of two visits to the same structures: what is new, has grown, is static, or is gone.

    Photographs are registered first, and nothing is claimed about those that cannot be.
    """

    before: Location = setting("folder of the scores of the earlier visit, or of its photographs")
    after: Location = setting(
        "folder of the scores of the later visit, or of its photographs; the folder of --before: its last run is "
        "compared with the runs before"
    )
    pairs: Location = setting(
        "CSV with the columns before and after, one pair of photographs a line; default: equal paths below the folder "
        "of each visit, without dates",
        "",
    )
    within: float = setting(
        "pair a photograph without a partner of the same path with the nearest earlier one whose camera was at most "
        "so far away and looked in about the same direction [m]; 0: do not",
        0.0,
        ge=0,
        le=1000,
    )
    out: Location = setting(
        "folder of the table of changes; each comparison adds to it and continues its histories; default: _changes in "
        "the scores of --after",
        "",
    )
    model: Location = setting(
        "model directory for photographs that have to be scored again; default: the one that made the later scores", ""
    )
    shown: int = setting("findings that are shown on the page with pictures", 48, ge=0, le=200)
    no_report: bool = setting("do not write a page", False)
