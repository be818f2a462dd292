"""One HTML file from a template: escaped text, its own style and script, and a policy that forbids the network."""

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
from crackvae.console import visible
from crackvae.model.artifact import Model
from crackvae.model.heads import BASELINE
from crackvae.model.inference import RecordedModel
from crackvae.reports import charts, views
from crackvae.reports.crack_size import CrackSize
from crackvae.reports.views import Box, ImageView, View

# A page stays well under 15 MB: bytes of all its small and all its large pictures, before base64 adds a third.
SMALL_PICTURES_BYTES, LARGE_PICTURES_BYTES = 6_000_000, 3_000_000


# One picture need not be larger; a METU image takes 5 to 12 kB.
MAX_SMALL_BYTES, MAX_LARGE_BYTES = 40_000, 500_000


def number(value: float, digits: int = 3) -> str:
    """A measured number, short; – where there is none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, (int, np.integer)) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def percent(value: float, digits: int = 3) -> str:
    """A share in per cent, with enough digits for a rare event."""
    return "–" if value != value else f"{100 * value:.{digits}g} %"


# How the field writes what the tables call by a name of a column.
_NAMES = {"roc_auc": "ROC-AUC", "f1": "F1", BASELINE: "one line of numpy"}


def figure_name(name: str) -> str:
    """The name of a figure in words: recall at 1 % false alarms."""
    return _NAMES.get(name) or visible(name).replace("_", " ").replace("%", " %")


def scorer_name(name: str) -> str:
    """The name of a head or of another method in words."""
    return _NAMES.get(name) or str(name).replace("_", " ")


def crack_text(crack: CrackSize | None, mm_per_px: float | None) -> str:
    """What a traced crack measures, in pixels and, where the scale is known, in millimetres."""
    if crack is None:
        return ""
    if not crack.pieces:
        return "no line stands out of the map"

    def size(length_px: float, digits: int) -> str:
        text = f"{length_px:.{digits}f} px"
        return text if mm_per_px is None else f"{text} ({number(length_px * mm_per_px)} mm)"

    pieces = f" in {crack.pieces} pieces" if crack.pieces > 1 else ""
    return (
        f"length {size(crack.length_px, 0)}{pieces}, width {size(crack.mean_width_px, 1)} on average, "
        f"{size(crack.max_width_px, 1)} at most"
    )


@dataclass
class Thumbnail:
    """One picture of the page: its bytes as a URI, its size, and the box drawn on it."""

    title: str
    src: str
    width: int
    height: int
    box: Box | None


@dataclass
class Thumbnails:
    """Encodes the pictures of one page, each within its share of the page's size.

    Attributes:
        n: pictures that will be encoded at most.
        top: value with the brightest colour in every anomaly map.
        large: whether these are whole photographs.
    """

    n: int
    top: float
    large: bool = False
    max_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        total, most = (LARGE_PICTURES_BYTES, MAX_LARGE_BYTES) if self.large else (SMALL_PICTURES_BYTES, MAX_SMALL_BYTES)
        self.max_bytes = min(most, total // max(1, self.n))

    def shot(self, title: str, pixels: np.ndarray, box: Box | None = None) -> Thumbnail:
        """One picture, uint8 (h, w) or (h, w, 3)."""
        height, width = pixels.shape[:2]
        return Thumbnail(title, views.data_uri(pixels, self.max_bytes), width, height, box)

    def anomaly(self, view: View, box: Box | None, title: str = "anomaly map") -> list[Thumbnail]:
        """The anomaly map of a view over its picture; nothing without a model."""
        if view.anomaly_hw is None:
            return []
        return [self.shot(title, charts.anomaly_overlay(view.picture_hw, view.anomaly_hw, self.top), box)]

    def pair(self, view: View, title: str) -> list[Thumbnail]:
        """A picture and its anomaly map, both with the worst place boxed where one stands out."""
        box = views.box_of(view, self.top)
        return [self.shot(title, view.picture_hw, box), *self.anomaly(view, box)]


@dataclass(frozen=True)
class Rendered:
    """A finished page.

    Attributes:
        html: the file.
        figures: what it shows, for the summary of the verb.
        images: that it shows, in order.
        model: that explained them, or None.
        top: value with the brightest colour in its anomaly maps.
    """

    html: bytes
    figures: dict[str, Any]
    images: list[str]
    model: Model | None
    top: float


# Full-size pictures lie beside the page under numbers: an image's own name may be one that no disk takes.
FULL_SIZE_NAME = "{number:03d}-{kind}.png"


def full_size_links(folder: str, number: int, seen: ImageView, judge: RecordedModel) -> list[tuple[str, str]]:
    """Kind and relative place of the full-size pictures of the image that is shown as the `number`-th."""
    if not folder or seen.whole is None:
        return []
    kinds = ("picture", "reconstruction", "anomaly") if judge.model else ("picture",)
    return [(kind, f"{folder}/{FULL_SIZE_NAME.format(number=number, kind=kind)}") for kind in kinds]


def shown_figures(looks: list[ImageView], judge: RecordedModel) -> dict[str, Any]:
    """How much of what should be shown could be."""
    return {
        "shown": len(looks),
        "without_picture": sum(one.whole is None for one in looks),
        "anomaly_maps": judge.model is not None,
        "note": judge.why_not,
    }


def shared_folder(images: list[str]) -> str:
    """The folder that all these images lie in, with its last slash; it need not be read again at each of them."""
    first, last = min(images, default=""), max(images, default="")
    same = [a == b for a, b in zip(first, last, strict=False)]
    common = first[: same.index(False) if False in same else len(same)]
    return common[: common.rfind("/") + 1]


def name_parts(image: str, folder: str) -> dict[str, str]:
    """Folder (below `folder`) and file name of an image, safe to show."""
    below, _, name = image.removeprefix(folder).rpartition("/")
    return {"folder": visible(f"{below}/" if below else ""), "file": visible(name), "whole": visible(image)}


def render(template: str, **context: Any) -> bytes:
    """The page. Its policy lets a browser run our one script, show pictures that are inside, and fetch nothing.

    Args:
        template: name of a file in templates/.
        context: text is escaped wherever it is put in; charts are SVG made by us.
    """
    environment = _environment()
    assert environment.loader
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    html = environment.get_template(template).render(
        style=style, script=script, policy=policy, version=crackvae.__version__, **context
    )
    return html.encode("utf-8")


@cache
def _environment() -> jinja2.Environment:
    """The templates, compiled once a process."""
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


def _href(place: str) -> str:
    """A relative link to a file beside the page; its name may hold any character."""
    return "./" + quote(place)


def when(run: str) -> str:
    """The start of a run in words: 2026-11-23 22:22 UTC; the name itself where it is no time."""
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)\d\d(_\d+)?", run)
    return f"{match[1]}-{match[2]}-{match[3]} {match[4]}:{match[5]} UTC" if match else visible(run)


def as_json(row: dict[str, Any]) -> str:
    """A row for the script: keeps every character of a file name, which an attribute of HTML would not."""
    return json.dumps({key: None if value != value else value for key, value in row.items()})
