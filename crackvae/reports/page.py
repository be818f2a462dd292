"""Rendering of self-contained HTML pages: escaped text, inline style and script, no network access."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

import crackvae
from crackvae.console import few_digits, visible
from crackvae.model.artifact import Model
from crackvae.model.heads import BASELINE, HEADS
from crackvae.model.inference import RecordedModel
from crackvae.reports import charts, views
from crackvae.reports.views import Box, ImageView, View

# A page stays well under 15 MB: total size of its small and its large pictures [bytes], before base64 adds a third.
SMALL_PICTURES_BYTES, LARGE_PICTURES_BYTES = 6_000_000, 3_000_000

# Upper limit of a single picture [bytes]; a METU image takes 5 to 12 kB.
MAX_SMALL_BYTES, MAX_LARGE_BYTES = 40_000, 500_000


def number(value: float, digits: int = 3) -> str:
    """A measured number with few digits; – for NaN or None."""
    if value is None or value != value:
        return "–"
    if isinstance(value, (int, np.integer)) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return few_digits(value, digits, ",")


def percent(value: float, digits: int = 3) -> str:
    """A share in per cent, with enough digits for rare events."""
    return "–" if value != value else f"{few_digits(100 * value, digits, ',')} %"


# Display names of columns.
_NAMES = {"roc_auc": "ROC-AUC", "f1": "F1", BASELINE: "one line of numpy"}


def figure_name(name: str) -> str:
    """Display name of a metric, such as "recall at 1 % false alarms"."""
    return _NAMES.get(name) or visible(name).replace("_", " ").replace("%", " %")


def scorer_name(name: str) -> str:
    """Display name of a head or of another method."""
    return _NAMES.get(name) or str(name).replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What a page shows.

    Attributes:
        model_dir: model directory, or "" for the one that the scores name.
        n_worst: images in the review queue, or in each gallery of an evaluation.
        n_unflagged: images in the random sample of unflagged images.
        n_photographs: photographs that are shown whole, with every tile.
        mm_per_px: scale of the images, or None.
        full_size_folder: folder of full-size pictures beside the page, or "".
        gps_precision_m: side of the squares that places are rounded to [m]; 0: exact, infinity: no map.
        served: whether `crackvae review` serves the page and takes its verdicts.
        beside_scores: whether the page lies in the folder of its scores, where those of other nights are.
    """

    model_dir: str = ""
    n_worst: int = 48
    n_unflagged: int = 12
    n_photographs: int = 4
    mm_per_px: float | None = None
    full_size_folder: str = ""
    gps_precision_m: float = 0.0
    served: bool = False
    beside_scores: bool = False


@dataclass
class Thumbnail:
    """One picture of the page: its data URI, its size [px] and the box drawn on it."""

    title: str
    src: str
    width: int
    height: int
    box: Box | None


@dataclass
class Thumbnails:
    """Encodes the pictures of one page, each within its share of the size limit.

    Attributes:
        n: largest number of pictures that will be encoded.
        vmax: upper end of the colour scale of all anomaly maps.
        large: whether these are whole photographs.
    """

    n: int
    vmax: float
    large: bool = False
    max_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        total, most = (LARGE_PICTURES_BYTES, MAX_LARGE_BYTES) if self.large else (SMALL_PICTURES_BYTES, MAX_SMALL_BYTES)
        self.max_bytes = min(most, total // max(1, self.n))

    def picture(self, title: str, pixels: np.ndarray, box: Box | None = None) -> Thumbnail:
        """Encode one picture, uint8 (h, w) or (h, w, 3)."""
        height, width = pixels.shape[:2]
        return Thumbnail(title, views.data_uri(pixels, self.max_bytes), width, height, box)

    def anomaly(self, view: View, box: Box | None, title: str = "anomaly map") -> list[Thumbnail]:
        """The anomaly map of a view over its picture; empty without a model."""
        if view.anomaly_hw is None:
            return []
        return [self.picture(title, charts.anomaly_overlay(view.picture_hw, view.anomaly_hw, self.vmax), box)]

    def pair(self, view: View, title: str) -> list[Thumbnail]:
        """A picture and its anomaly map, both with a box around the most anomalous region if it stands out."""
        box = views.box_of(view, self.vmax)
        return [self.picture(title, view.picture_hw, box), *self.anomaly(view, box)]


@dataclass(frozen=True)
class Rendered:
    """A finished page.

    Attributes:
        html: content of the file.
        figures: counts of what it shows, for the summary of the verb.
        images: the images that it shows, in order.
        model: the model that explained them, or None.
        vmax: upper end of the colour scale of its anomaly maps.
    """

    html: bytes
    figures: dict[str, Any]
    images: list[str]
    model: Model | None
    vmax: float


# Full-size pictures are numbered: the name of an image may not be a valid file name on every file system.
FULL_SIZE_NAME = "{number:03d}-{kind}.png"


def full_size_links(folder: str, number: int, view: ImageView, recorded: RecordedModel) -> list[tuple[str, str]]:
    """Kind and relative path of the full-size pictures of the image that is shown as the `number`-th."""
    if not folder or view.whole is None:
        return []
    kinds = ("picture", "reconstruction", "anomaly") if recorded.model else ("picture",)
    return [(kind, f"{folder}/{FULL_SIZE_NAME.format(number=number, kind=kind)}") for kind in kinds]


def colour_bar(vmax: float, recorded: RecordedModel) -> str:
    """The colour scale of the anomaly maps, or "" without a model."""
    return charts.colour_bar(vmax, HEADS[recorded.model.spec.head].unit, "scale") if recorded.model else ""


def shown_figures(image_views: list[ImageView], recorded: RecordedModel) -> dict[str, Any]:
    """Number of images shown, and of those without a picture or anomaly maps."""
    return {
        "shown": len(image_views),
        "without_picture": sum(one.whole is None for one in image_views),
        "anomaly_maps": recorded.model is not None,
        "note": recorded.why_not,
    }


def shared_folder(images: list[str]) -> str:
    """The deepest common folder of these images with a trailing slash, or ""; the page shows it once."""
    first, last = min(images, default=""), max(images, default="")
    same = [a == b for a, b in zip(first, last, strict=False)]
    common = first[: same.index(False) if False in same else len(same)]
    return common[: common.rfind("/") + 1]


def name_parts(image: str, folder: str) -> dict[str, str]:
    """Folder (relative to `folder`) and file name of an image, safe to display."""
    below, _, name = image.removeprefix(folder).rpartition("/")
    return {"folder": visible(f"{below}/" if below else ""), "file": visible(name), "whole": visible(image)}


# What a served page may do beyond one that is opened from disk.
SERVED_POLICY = "; connect-src 'self'"


def render(template: str, *, served: bool = False, script_name: str = "", **context: Any) -> bytes:
    """Render a page. Its content security policy allows our script and embedded pictures, and no requests.

    Args:
        template: name of a file in templates/.
        served: the page may send requests to the server that it came from, and to no other.
        script_name: of a further script in templates/, if the page has one.
        context: variables of the template; text is escaped, charts are our own SVG.
    """
    environment = _environment()
    assert environment.loader
    style, *scripts = (
        environment.loader.get_source(environment, name)[0]
        for name in ("page.css", "page.js", *(("review.js",) if served else ()), script_name)
        if name
    )
    script = "\n".join(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:{' blob:' if served else ''}; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src 'sha256-{digest}'"
        f"{SERVED_POLICY if served else ''}"
    )
    html = environment.get_template(template).render(
        style=style, script=script, policy=policy, version=crackvae.__version__, served=served, **context
    )
    return html.encode("utf-8")


@cache
def _environment() -> jinja2.Environment:
    """The templates, compiled once per process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crackvae.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "number": number,
        "percent": percent,
        "parts": name_parts,
        "href": _href,
        "figure_name": figure_name,
        "scorer_name": scorer_name,
    }
    return environment


def _href(path: str) -> str:
    """A relative link to a file beside the page; its name may contain any character."""
    return "./" + quote(path)


def when(run: str) -> str:
    """Start time of a run, such as 2026-11-23 22:22 UTC; the name itself if it is not a time."""
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)\d\d(_\d+)?(\.\d+of\d+)?", run)
    return f"{match[1]}-{match[2]}-{match[3]} {match[4]}:{match[5]} UTC" if match else visible(run)


def as_json(row: dict[str, Any]) -> str:
    """A row for the script as JSON, which preserves every character of a file name."""
    return json.dumps({key: None if value != value else value for key, value in row.items()})
