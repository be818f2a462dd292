"""What the PDF says of a finding, in words, and how its text looks."""

import html
import importlib.util
import math
from pathlib import Path
from typing import Any

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph

from crackvae.exports.rows import taken_text
from crackvae.exports.xml_text import plain
from crackvae.storage.tables.findings import COVERS_90

INK, GREY, PALE, ACCENT = HexColor("#1f2937"), HexColor("#6b7280"), HexColor("#e5e7eb"), HexColor("#0f766e")
COLOUR_OF: dict[str, Color] = {
    "crack": HexColor("#dc2626"),
    "joint": HexColor("#2563eb"),
    "unclear": HexColor("#d97706"),
}

# Matplotlib's fonts, which have the letters of most European languages; those of PDF itself stop at Latin-1.
FONT, BOLD = "DejaVuSans", "DejaVuSans-Bold"

SMALL = ParagraphStyle("small", fontName=FONT, fontSize=7.5, leading=10, textColor=INK)
BODY = ParagraphStyle("body", SMALL, fontSize=9.5, leading=13.5, spaceAfter=6)
HEADING = ParagraphStyle(
    "heading", BODY, fontName=BOLD, fontSize=13, leading=17, spaceBefore=10, spaceAfter=6, keepWithNext=1
)
TITLE = ParagraphStyle("title", HEADING, fontSize=26, leading=32, textColor=ACCENT)


def register_fonts() -> None:
    """Make FONT and BOLD known to reportlab."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec and spec.origin, "matplotlib is a dependency"
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    for name in (FONT, BOLD):
        pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    pdfmetrics.registerFontFamily(FONT, normal=FONT, bold=BOLD, italic=FONT, boldItalic=BOLD)


def paragraph(text: Any, style: ParagraphStyle = SMALL) -> Paragraph:
    """A paragraph of any text: names of files may look like markup."""
    return Paragraph(_escaped(text), style)


def facts(row: dict[str, Any]) -> Paragraph:
    """All that is known of a finding, a line each."""
    lines = {"Photograph": row["name"], "Also on": ", ".join(row["also_on"])}
    lines |= {"Length": length_text(row), "Width": width_text(row)}
    lines |= {"Width class": row["width_class"], "Scale": row["mm_source"] or "not known: no millimetres"}
    if row["status"]:
        lines["Since the last visit"] = row["status"].replace("_", " ")
    lines |= {"Taken": _taken(row), "Place": _place(row), "Finding": row["finding"]}
    known = [f'<font color="#6b7280">{name}</font> {_escaped(text)}' for name, text in lines.items() if text]
    return Paragraph("<br/>".join([_coloured(row["kind"]), *known]), SMALL)


def legend() -> Paragraph:
    """The colours of the kinds."""
    return Paragraph(" &nbsp; ".join(map(_coloured, COLOUR_OF)), SMALL)


def _coloured(kind: str) -> str:
    return f'<font name="{BOLD}" color="{COLOUR_OF[kind].hexval().replace("0x", "#")}">{kind}</font>'


def length_text(row: dict[str, Any]) -> str:
    """Length with its 90 % interval, in millimetres where the scale is known."""
    pixels = _with_error(row["length_px"], row["length_sigma_px"], "px", digits=0)
    if math.isnan(row["length_mm"]):
        return pixels
    sigma = math.hypot(row["length_sigma_px"] / row["length_px"], _scale_sigma(row)) * row["length_mm"]
    return f"{_with_error(row['length_mm'], sigma, 'mm', digits=0)} ({pixels})"


def _scale_sigma(row: dict[str, Any]) -> float:
    """Relative standard uncertainty of the scale: what that of the mean width has more in mm than in px."""
    in_mm, in_px = (row[f"width_sigma_{unit}"] / row[f"width_mean_{unit}"] for unit in ("mm", "px"))
    return math.sqrt(max(0.0, in_mm**2 - in_px**2)) if in_mm == in_mm else math.nan


def width_text(row: dict[str, Any]) -> str:
    """Mean and largest width, in millimetres where the scale is known."""
    if math.isnan(row["width_mean_px"]):
        return "not measured"
    mean = _with_error(row["width_mean_px"], row["width_sigma_px"], "px")
    pixels = f"mean {mean}, largest {row['width_max_px']:.1f} px"
    if math.isnan(row["width_mean_mm"]):
        return pixels
    mean = _with_error(row["width_mean_mm"], row["width_sigma_mm"], "mm", digits=2)
    return f"mean {mean}, largest {row['width_max_mm']:.2f} mm ({pixels})"


def _with_error(value: float, sigma: float, unit: str, digits: int = 1) -> str:
    error = "" if math.isnan(sigma) else f" ± {COVERS_90 * sigma:,.{digits}f}"
    return f"{value:,.{digits}f}{error} {unit}"


def _taken(row: dict[str, Any]) -> str:
    text = taken_text(row).replace("T", " ")
    return text.replace("Z", " UTC") if text.endswith("Z") else text and f"{text} (clock of the camera)"


def _place(row: dict[str, Any]) -> str:
    return "" if math.isnan(row["lat"]) else f"{row['lat']:.5f}, {row['lon']:.5f} (of the {row['place_of']})"


def _escaped(text: Any) -> str:
    return html.escape(plain(text).replace("\n", " "), quote=False)
