"""Exports of findings: what is in them, that other programs read them, and that places are as precise as wanted."""

import csv
import io
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from conftest import HOUSE
from findings_made import bridge, finding, write_scores
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import crackvae
from crackvae.config import FindingsConfig, metres_of
from crackvae.errors import ConfigError, StorageError
from crackvae.exports import pdf
from crackvae.exports.annotations.outlines import area_of, outlines
from crackvae.exports.pdf_pictures import ASPECT, Crop, _part
from crackvae.exports.pdf_text import length_text, paragraph
from crackvae.exports.rows import SCALARS
from crackvae.exports.verb import findings
from crackvae.images.metadata.places import METRES_PER_DEGREE, coarsened
from crackvae.reports.overlaps import Views
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog

ENDINGS = {
    "csv": "csv",
    "geojson": "geojson",
    "kml": "kml",
    "coco": "json",
    "label-studio": "json",
    "cvat": "xml",
    "pdf": "pdf",
}
PDF_TOOLS = pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs poppler-utils")
ALL_KINDS = ("crack", "joint", "unclear")


def exported(out: Path, file: str, **settings: Any) -> bytes:
    path = out.parent / file
    findings(FindingsConfig(scores=str(out), out=str(path), **settings))
    return path.read_bytes()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return bridge(tmp_path / "scores")


# ----------------------------------------------------------------------------------------------- the formats


def test_a_csv_has_every_value_and_starts_no_formula(out: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(out, "f.csv").decode())))
    assert list(rows[0]) == list(SCALARS)
    assert [row["finding"] for row in rows] == ["f4", "f1", "f3"]
    assert rows[0]["name"].startswith("'=1+1") and rows[1]["length_mm"] == "52.1"


def test_geojson_has_a_point_where_the_place_is_known(out: Path) -> None:
    features = {one["id"]: one for one in json.loads(exported(out, "f.geojson"))["features"]}
    assert features["f1"]["geometry"] == {"type": "Point", "coordinates": [8.5417321, 47.3769123]}
    assert features["f4"]["geometry"] is None
    properties = features["f1"]["properties"]
    assert (properties["taken"], properties["length_mm"]) == ("2026-05-04T08:30:00Z", 52.1)
    assert features["f3"]["properties"]["taken"] == "2026-05-04T08:30:00", "a local time is not called UTC"
    assert not {"width_class", "width_max_mm"} & set(properties), "what is unknown is left out"


def test_kml_has_a_folder_for_each_structure(out: Path) -> None:
    space = "{http://www.opengis.net/kml/2.2}"
    root = ElementTree.fromstring(exported(out, "f.kml"))
    assert [one.text for one in root.iter(f"{space}coordinates")] == ["8.5417321,47.3769123", "8.5421000,47.3771000"]
    assert [one.findtext(f"{space}name") for one in root.iter(f"{space}Folder")] == ["pier"]


@pytest.mark.parametrize(("kind", "what"), [("kml", "the KML is without them"), ("geojson", "they have no geometry")])
def test_a_map_says_how_many_findings_have_no_place(kind: str, what: str, out: Path, capsys: Any) -> None:
    exported(out, f"f.{kind}")
    said = capsys.readouterr().err
    assert "1 of 3 findings have no place (their photographs name none): " in said and what in said
    exported(out, f"f.{kind}", gps_precision="off")
    assert "3 of 3 findings have no place (left out with --gps-precision off): " in capsys.readouterr().err


def test_coco_has_a_box_and_a_polygon_for_each_finding(out: Path) -> None:
    content = json.loads(exported(out, "f.json", format="coco", kind=ALL_KINDS, image_prefix="photos/"))
    names = {one["id"]: one["file_name"] for one in content["images"]}
    kinds = {one["id"]: one["name"] for one in content["categories"]}
    found = {one["attributes"]["finding"]: one for one in content["annotations"]}
    assert names[found["f1"]["image_id"]] == "photos/pier/a.jpg"
    assert [kinds[found[name]["category_id"]] for name in ("f1", "f2", "f3")] == ["crack", "joint", "unclear"]
    assert found["f1"]["bbox"] == [8, 44, 105, 13] and found["f1"]["area"] == pytest.approx(3 * 107, rel=0.05)
    assert len(found["f3"]["segmentation"]) == 2, "one polygon a branch"
    assert all(len(polygon) >= 6 for one in found.values() for polygon in one["segmentation"])
    for one in found.values():
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in one["segmentation"]])
        left, top, width, height = one["bbox"]
        assert [left, top] == np.floor(points.min(axis=0)).tolist()
        assert [left + width, top + height] == np.ceil(points.max(axis=0)).tolist()


def test_label_studio_gets_one_task_an_image(out: Path) -> None:
    tasks = json.loads(exported(out, "f.json", format="label-studio", image_prefix="/data/local-files/?d="))
    assert [one["data"]["image"] for one in tasks][1:] == [f"/data/local-files/?d=pier/{name}.jpg" for name in "ab"]
    results = tasks[2]["predictions"][0]["result"]
    assert [one["value"]["polygonlabels"] for one in results] == [["unclear"], ["unclear"]]
    assert all(0 <= value <= 100 for one in results for point in one["value"]["points"] for value in point)


def test_cvat_gets_a_polygon_for_each_branch(out: Path) -> None:
    root = ElementTree.fromstring(exported(out, "f.xml"))
    assert [one.get("name") for one in root.iter("image")] == ['=1+1 <&"?>.jpg', "pier/a.jpg", "pier/b.jpg"]
    assert [one.get("label") for one in root.iter("polygon")] == ["crack", "crack", "unclear", "unclear"]


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_table_without_findings_gives_an_empty_file_of_the_format(kind: str, tmp_path: Path) -> None:
    out = write_scores(tmp_path / "scores", [], {"/photographs/a.jpg": {}})
    assert exported(out, f"f.{ENDINGS[kind]}", format=kind)


def test_what_reviewers_say_counts(out: Path) -> None:
    log, image = VerdictLog(str(out)), "/photographs/pier/a.jpg"
    for name, place, verdict in (("f1", "a", "sound"), ("f2", "a", "crack"), ("f3", "b", "joint")):
        subject = Subject(image.replace("a.jpg", f"{place}.jpg"), name)
        log.append(f"verdict-{name}", "anna", [Judgement(subject, verdict)])
    kinds = {row["finding"]: row["kind"] for row in csv.DictReader(io.StringIO(exported(out, "f.csv").decode()))}
    assert kinds == {"f4": "crack", "f2": "crack"}
    with_joints = exported(out, "f.csv", kind=ALL_KINDS).decode()
    assert {row["finding"]: row["verdict"] for row in csv.DictReader(io.StringIO(with_joints))} == {
        "f4": "",
        "f2": "crack",
        "f3": "joint",
    }


def test_a_verdict_on_a_whole_image_holds_for_findings_that_nobody_has_judged(out: Path) -> None:
    """A small image has no verdicts of its findings, and a client must not get what all call sound."""
    log, (a, b) = VerdictLog(str(out)), (f"/photographs/pier/{name}.jpg" for name in "ab")
    said = {Subject(a): "sound", Subject(a, "f2"): "joint", Subject(b): "joint"}
    log.append("verdicts-1", "anna", [Judgement(subject, verdict) for subject, verdict in said.items()])  # type: ignore[arg-type]
    rows = list(csv.DictReader(io.StringIO(exported(out, "f.csv", kind=ALL_KINDS).decode())))
    assert [(row["finding"], row["kind"], row["verdict"]) for row in rows] == [
        ("f4", "crack", ""),
        ("f2", "joint", "joint"),
        ("f3", "joint", "joint"),
    ]
    read = crackvae.read_findings(out, ["finding", "verdict"]).to_pylist()
    assert {row["finding"]: row["verdict"] for row in read} == {"f1": "sound", "f2": "joint", "f3": "joint", "f4": ""}
    log.append("verdicts-2", "ben", [Judgement(Subject(a), "crack"), Judgement(Subject(b, "f3"), "crack")])
    rows = list(csv.DictReader(io.StringIO(exported(out, "f.csv").decode())))
    assert [(row["finding"], row["verdict"]) for row in rows] == [("f4", ""), ("f1", ""), ("f3", "crack")]


def test_after_a_change_of_the_model_only_the_latest_run_of_an_image_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c, d = (f"/photographs/{name}.jpg" for name in "abcd")
    later = {"run": "20261102T000000_000000", "model": "n"}
    found = [finding(f"old-{image[-5]}", image) for image in (a, b, c, d)]
    write_scores(tmp_path / "scores", found, {image: {"camera": "old"} for image in (a, b, c, d)})
    images = {
        a: {"camera": "new"},
        b: {"status": "no_surface", "flagged": False},
        c: {"status": "unreachable", "flagged": False},
    }
    write_scores(
        tmp_path / "later", [finding("new-a", a, **later)], {name: one | later for name, one in images.items()}
    )
    for folder in ("_findings", "."):
        (part,) = (tmp_path / "later" / folder).glob("*.parquet")
        part.rename(tmp_path / "scores" / folder / f"{later['run']}-00000.parquet")
    rows = list(csv.DictReader(io.StringIO(exported(tmp_path / "scores", "f.csv").decode())))
    assert [(row["finding"], row["camera"]) for row in rows] == [("new-a", "new"), ("old-c", "old"), ("old-d", "old")]
    given: list[Any] = []
    monkeypatch.setattr(pdf, "pdf_bytes", lambda rows, images, *_: given.append(images) or b"")
    exported(tmp_path / "scores", "f.pdf")
    assert sorted(given[0]["status"].to_pylist()) == ["no_surface", "scored", "scored", "scored"]


# ------------------------------------------------------------------------------------------------------ PDF


@PDF_TOOLS
def test_the_pdf_names_every_structure_finding_size_and_source(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    (folder / "pier").mkdir(parents=True)
    for name in "ab":
        Image.fromarray(np.full((100, 200), 150, np.uint8)).save(folder / "pier" / f"{name}.jpg")
    out = bridge(tmp_path / "scores", str(folder))
    exported(out, "f.pdf", kind=ALL_KINDS, title="Bridge <7> & Süd", gps_precision="1km")
    text = subprocess.run(["pdftotext", "-layout", out.parent / "f.pdf", "-"], capture_output=True, text=True).stdout
    for expected in (
        "Bridge <7> & Süd",
        "4 findings: 2 cracks, 1 joint, 1 unclear.",
        "rounded to 1km",
        "52 mm (104 ± 2 px)",
        "--mm-per-px",
        "not known: no millimetres",
        "2026-05-04 08:30:00 UTC",
        "(clock of the camera)",
        "deck & <rail>",
        "=1+1 <&",
        "The photograph can no longer be read.",
        "place not known",
    ):
        assert expected in text, f"{expected}:\n{text}"
    assert "8.54173" not in text


def test_a_length_in_millimetres_has_the_uncertainty_of_its_scale() -> None:
    size = {"length_px": 1000.0, "length_sigma_px": 10.0, "width_mean_px": 4.0, "width_sigma_px": 0.2}
    row = finding("f", "a", **size, length_mm=500.0, width_mean_mm=2.0, width_sigma_mm=2.0 * math.hypot(0.05, 0.05))
    assert length_text(row) == "500 ± 42 mm (1,000 ± 16 px)"
    assert length_text(row | {"width_sigma_mm": math.nan}) == "500 mm (1,000 ± 16 px)"


@PDF_TOOLS
def test_one_crack_in_two_photographs_is_one_row_of_the_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "crackvae.exports.rows.views_of", lambda rows: Views(["" if at else "f3" for at in range(len(rows))], 1, 1)
    )
    out = bridge(tmp_path / "scores")
    exported(out, "f.pdf", views=True)
    text = subprocess.run(["pdftotext", "-layout", out.parent / "f.pdf", "-"], capture_output=True, text=True).stdout
    assert "2 findings: 1 crack, 1 unclear." in text and "Also on =1+1 <&" in text
    rows = list(csv.DictReader(io.StringIO(exported(out, "f.csv", views=True).decode())))
    assert [row["view_of"] for row in rows] == ["f3", "", ""], "all views are in the table"


def test_the_summary_of_the_pdf_counts_the_findings_that_it_does_not_show(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []

    def noted(text: Any, *style: Any) -> Any:
        texts.append(str(text))
        return paragraph(text, *style)

    monkeypatch.setattr(pdf, "paragraph", noted)
    monkeypatch.setattr(pdf, "MAX_FINDINGS", 1)
    exported(out, "f.pdf", kind=ALL_KINDS)
    assert "This document shows the 1 longest findings; the CSV has all." in texts
    cells = texts[texts.index("widest crack") + 1 :]
    assert cells[:7] == ["pier", "2", "1", "1", "1", "52 mm", "–"]
    assert cells[7:14] == ["deck & <rail>", "1", "1", "0", "0", "104 px", "3.4 px"]


def test_the_same_table_gives_the_same_pdf(out: Path) -> None:
    assert exported(out, "a.pdf") == exported(out, "b.pdf")


# --------------------------------------------------------------------------------------------------- settings


def test_the_ending_of_the_file_is_the_format() -> None:
    assert FindingsConfig(scores="s", out="a/F.GeoJSON").format == "geojson"
    assert FindingsConfig(scores="s", out="f.json", format="coco").format == "coco"
    with pytest.raises(ConfigError, match="names no format"):
        FindingsConfig(scores="s", out="f.json")
    with pytest.raises(ConfigError, match="not a precision"):
        FindingsConfig(scores="s", out="f.csv", gps_precision="100 miles")


def test_no_scores_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no scores table"):
        findings(FindingsConfig(scores=str(tmp_path), out=str(tmp_path / "f.csv")))


# ------------------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize("kind", ["csv", "geojson", "kml"])
def test_places_are_as_precise_as_wanted(kind: str, out: Path) -> None:
    exact, coarse, none = (
        exported(out, f"f.{kind}", gps_precision=precision).decode() for precision in ("", "1km", "off")
    )
    assert "47.3769123" in exact and "8.5417321" in exact
    assert "47.3" in coarse and not any(value in coarse for value in ("47.37691", "8.54173", "47.3771", "8.5421"))
    assert "47.3" not in none and "8.54" not in none and "412" not in none


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(1, 5000))
def test_a_coarse_place_is_near(lat: float, lon: float, precision_m: float) -> None:
    near = coarsened(lat, lon, precision_m)
    east = (near[1] - lon + 180) % 360 - 180
    assert abs(near[0] - lat) * METRES_PER_DEGREE <= precision_m / 2 + 0.1
    assert abs(east) * METRES_PER_DEGREE * math.cos(math.radians(near[0])) <= precision_m / 2 + 0.1


@pytest.mark.parametrize(("text", "metres"), [("", 0.0), ("off", math.inf), ("100m", 100.0), ("0.5km", 500.0)])
def test_a_precision_is_a_length(text: str, metres: float) -> None:
    assert metres_of(text) == metres


# ------------------------------------------------------------------------------------- lines of georeferenced images

# Web Mercator: (500, 300) and (700, 500) px of a file that begins at 1,000,000 m east and 6,000,000 m north.
GEO = {"33550": (0.5, 0.5, 0.0), "33922": (0.0, 0.0, 0.0, 1_000_000.0, 6_000_000.0, 0.0)}


def georeferenced(tmp_path: Path) -> Path:
    """A whole GeoTIFF and a window of it, each with one crack of two branches from (10, 20) on."""
    pytest.importorskip("pyproj")
    path = tmp_path / "ortho.tif"
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 3857)
    tags = [(int(tag), "d", len(values), values, True) for tag, values in GEO.items()]
    tifffile.imwrite(
        path, np.zeros((900, 1000), np.uint8), extratags=[*tags, (34735, "H", len(keys), keys, True)], metadata=None
    )
    images = {str(path): {"group": "wall"}, f"{path}!/x=400,y=200,w=600,h=700": {"group": "deck"}}
    branches = {"x_px": [10.0, 50.0, 60.0, math.nan, 30.0, 30.0], "y_px": [20.0, 20.5, 40.0, math.nan, 20.0, 90.0]}
    found = [finding(f"g{at}", image, **branches, widths_px=[2.0] * 6) for at, image in enumerate(images)]
    return write_scores(tmp_path / "scores", found, images)


def mercator(x_px: float, y_px: float) -> tuple[float, float]:
    """Longitude and latitude of a place in the GeoTIFF, by the formula of its projection (EPSG 1024)."""
    east, north, radius = 1_000_000 + 0.5 * x_px, 6_000_000 - 0.5 * y_px, 6_378_137.0
    return math.degrees(east / radius), math.degrees(2 * math.atan(math.exp(north / radius)) - math.pi / 2)


def test_of_a_crack_that_leaves_its_window_labels_show_a_part_and_lines_all(tmp_path: Path) -> None:
    out = georeferenced(tmp_path)
    window = f"{out.parent / 'ortho.tif'}!/x=400,y=200,w=600,h=700"
    x = np.arange(500.0, 700.0)
    crack = finding("g2", window, x_px=x, y_px=x / 2, widths_px=np.full(200, 3.0), left_px=500, right_px=701)
    crack |= {"top_px": 250, "bottom_px": 351}
    write_scores(tmp_path / "one", [crack], {window: {"width": 600, "height": 700}})
    (annotation,) = json.loads(exported(tmp_path / "one", "f.json", format="coco"))["annotations"]
    assert annotation["bbox"] == [498, 248, 102, 55]
    assert max(annotation["segmentation"][0][::2]) == 600
    (feature,) = json.loads(exported(tmp_path / "one", "f.geojson"))["features"]
    assert feature["geometry"]["coordinates"][-1] == pytest.approx(mercator(400 + 699.5, 200 + 350), abs=1e-9)


def test_the_picture_of_a_crack_that_leaves_its_window_lies_in_the_window() -> None:
    crack = finding("g", "w", left_px=-300, right_px=900, top_px=100, bottom_px=140)
    left, top, shown_px = _part(crack, (700, 600))
    assert left >= 0 and left + shown_px <= 600 and top >= 0 and top + shown_px * ASPECT <= 700


@pytest.mark.parametrize("shape", [(227, 227), (900, 300), (700, 1000), (60, 60)])
def test_the_trace_lies_on_the_crack_in_the_picture_of_the_pdf(shape: tuple[int, int]) -> None:
    height, width = shape
    x, y = width // 3, height - 12
    pixels_HW = np.zeros(shape, np.uint8)
    pixels_HW[y - 5 : y + 6, x - 5 : x + 6] = 255
    box = {"left_px": x, "top_px": 0, "right_px": x + 1, "bottom_px": y + 6}
    crop = Crop(pixels_HW, finding("f", "i", x_px=[x, x], y_px=[y, 0], **box), width=200.0)
    crop.canv = Mock()
    crop.draw()
    (_, left, bottom, page_w, page_h), _ = crop.canv.drawImage.call_args
    shown = np.asarray(Image.open(crop.picture)) > 127
    middle_2 = [
        float(shown.sum(axis=axis) @ (np.arange(n) + 0.5) / shown.sum()) for axis, n in enumerate(shown.shape[::-1])
    ]
    at = left + middle_2[0] * page_w / shown.shape[1], bottom + page_h - middle_2[1] * page_h / shown.shape[0]
    drawn = crop.canv.beginPath.return_value.moveTo.call_args.args
    assert drawn == pytest.approx(at, abs=0.5)


def test_a_finding_on_a_georeferenced_image_is_a_line(tmp_path: Path) -> None:
    out = georeferenced(tmp_path)
    features = json.loads(exported(out, "f.geojson"))["features"]
    by_name = {one["id"]: one for one in features}
    for name, left, top in (("g0", 0, 0), ("g1", 400, 200)):
        geometry = by_name[name]["geometry"]
        assert geometry["type"] == "MultiLineString" and [len(line) for line in geometry["coordinates"]] == [3, 2]
        assert geometry["coordinates"][0][2] == pytest.approx(mercator(left + 60.5, top + 40.5), abs=1e-9)
        assert geometry["coordinates"][1][0] == pytest.approx(mercator(left + 30.5, top + 20.5), abs=1e-9)
        properties = by_name[name]["properties"]  # the place is that of the middle of the line
        place = (properties["lon"], properties["lat"])
        assert properties["place_of"] == "finding" and place == pytest.approx(geometry["coordinates"][0][2], abs=1e-7)


def test_a_line_is_left_out_where_places_are_rounded_or_the_file_is_gone(tmp_path: Path) -> None:
    out = georeferenced(tmp_path)
    coarse = json.loads(exported(out, "f.geojson", gps_precision="1km"))["features"]
    assert {one["geometry"]["type"] for one in coarse} == {"Point"}
    hidden = json.loads(exported(out, "f.geojson", gps_precision="off"))["features"]
    assert [one["geometry"] for one in hidden] == [None, None] and "8.98" not in json.dumps(hidden)
    (tmp_path / "ortho.tif").unlink()
    assert [one["geometry"] for one in json.loads(exported(out, "f.geojson"))["features"]] == [None, None]


# ---------------------------------------------------------------------------------------------------- outlines


def test_the_outline_of_a_straight_line_is_a_box_as_wide_as_the_line() -> None:
    row = finding("f", "a", x_px=np.arange(10.0, 31.0), y_px=np.full(21, 5.0), widths_px=np.full(21, 4.0))
    (polygon,) = outlines(row | {"width": 100, "height": 50})
    assert sorted(map(tuple, polygon.tolist())) == [(8.5, 3.5), (8.5, 7.5), (32.5, 3.5), (32.5, 7.5)]
    assert area_of(polygon) == 96


@given(st.lists(st.tuples(st.floats(0, 199), st.floats(0, 99), st.floats(0, 40) | st.just(math.nan)), max_size=40))
def test_outlines_lie_in_the_image(points: list[tuple[float, float, float]]) -> None:
    x, y, widths = zip(*points, strict=True) if points else ((), (), ())
    row = finding("f", "a", x_px=x, y_px=y, widths_px=widths) | {"width": 200, "height": 100}
    for polygon in outlines(row):
        assert len(polygon) >= 4 and np.isfinite(polygon).all()
        assert (polygon >= 0).all() and (polygon <= [200, 100]).all()


# ----------------------------------------------------------------------------------------------- other programs


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ogrinfo"), reason="needs GDAL")
@pytest.mark.parametrize("kind", ["geojson", "kml", "csv"])
def test_gdal_reads_the_places(kind: str, out: Path) -> None:
    exported(out, f"f.{kind}")
    options = ["-oo", "X_POSSIBLE_NAMES=lon", "-oo", "Y_POSSIBLE_NAMES=lat"] if kind == "csv" else []
    command = ["ogrinfo", "-al", "-ro", *options, str(out.parent / f"f.{kind}")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stdout.count("POINT (8.54") == 2 and not shown.stderr
    assert "pier/a.jpg" in shown.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ogrinfo"), reason="needs GDAL")
@pytest.mark.parametrize("kind", ["geojson", "kml"])
def test_gdal_reads_the_lines(kind: str, tmp_path: Path) -> None:
    out = georeferenced(tmp_path)
    exported(out, f"f.{kind}")
    command = ["ogrinfo", "-al", "-ro", str(out.parent / f"f.{kind}")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    lon, lat = mercator(460.5, 240.5)
    assert shown.stdout.count("MULTILINESTRING") == 2 and not shown.stderr
    assert f"{round(lon, 9)} {round(lat, 9)}" in shown.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_lines", [False, True])
def test_the_kml_follows_the_schema_of_ogc(has_lines: bool, tmp_path: Path) -> None:
    validate = pytest.importorskip("fastkml.validator").validate
    out = georeferenced(tmp_path) if has_lines else bridge(tmp_path / "scores")
    content = exported(out, "f.kml")
    assert (b"<LineString>" in content) == has_lines
    assert validate(file_to_validate=out.parent / "f.kml")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_label_studio_takes_tasks_and_predictions(out: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface
    guide = (HOUSE / "docs" / "guide.md").read_text()
    interface = interface(guide[guide.index("<View>") : guide.index("</View>") + len("</View>")])
    for task in json.loads(exported(out, "f.json", format="label-studio")):
        predictions = task.pop("predictions")
        assert interface.validate_task(task)
        assert [interface.validate_prediction(one, return_errors=True) for one in predictions] == [[]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_reads_boxes_and_masks(out: Path) -> None:
    coco_class = pytest.importorskip("pycocotools.coco").COCO
    exported(out, "f.json", format="coco", kind=ALL_KINDS)
    coco = coco_class(str(out.parent / "f.json"))
    found = {one["attributes"]["finding"]: one for one in coco.loadAnns(coco.getAnnIds())}
    mask = coco.annToMask(found["f1"])
    assert mask.shape == (100, 200) and mask.sum() == pytest.approx(found["f1"]["area"], rel=0.1)
    left, top, width, height = found["f1"]["bbox"]
    assert mask[top : top + height, left : left + width].sum() == mask.sum()
