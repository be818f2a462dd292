"""The page of an evaluation: the worst miss first, the metrics of every scorer, and groups with many errors."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from crackvae.config import ReportConfig
from crackvae.errors import StorageError
from crackvae.reports.charts import curves
from crackvae.reports.evaluation_files import EVALUATION_SCHEMA
from crackvae.reports.evaluation_page import evaluation_page
from crackvae.reports.page import PageSettings
from crackvae.reports.verb import report
from crackvae.storage import tables

pytestmark = pytest.mark.slow


def read(judged: Path) -> tuple[pa.Table, dict[str, object]]:
    table = tables.read_table(str(judged / "evaluation.parquet"), EVALUATION_SCHEMA, keep_extra=True)
    return table, json.loads((judged / "metrics.json").read_text())


def page_of(scored: pa.Table, summary: dict[str, object], n_worst: int = 6) -> str:
    return evaluation_page(scored, summary, PageSettings(n_worst=n_worst)).html.decode()


@pytest.fixture(scope="module")
def whole_page(judged: Path) -> str:
    """The page of the evaluation as it is."""
    return page_of(*read(judged))


def section(html: str, name: str) -> str:
    """From one heading to the next."""
    start = html.index(f'<h2 id="{name}"')
    end = html.find("<h2", start + 4)
    return html[start:end]


def names_in(html: str) -> list[str]:
    return re.findall(r'title="([^"]*)"><span class="folder">', html)


@pytest.mark.parametrize(
    ("gallery", "label", "flagged", "order"),
    [("missed", "crack", False, "ascending"), ("alarms", "non_crack", True, "descending")],
)
def test_each_gallery_of_errors_is_worst_first_and_counts_them_all(
    judged: Path, whole_page: str, gallery: str, label: str, flagged: bool, order: str
) -> None:
    scored, _ = read(judged)
    html = section(whole_page, f"external-{gallery}")
    wrong = scored.filter(
        (pc.field("set") == "external") & (pc.field("label") == label) & (pc.field("flagged") == flagged)
    ).sort_by([("score", order), ("image", "ascending")])
    assert names_in(html) == wrong["image"].to_pylist()[:6] and f": {wrong.num_rows}</h2>" in html


def test_the_worst_miss_of_each_set_leads_the_page_before_any_figure(judged: Path, whole_page: str) -> None:
    scored, _ = read(judged)
    for name in ("internal", "external"):
        lead = whole_page[whole_page.index(f'<section id="{name}">') : whole_page.index(f'<h2 id="{name}-figures">')]
        lead = lead[lead.index("<h2>Worst miss</h2>") : lead.index("<h2>Worst false alarm</h2>")]
        missed = scored.filter((pc.field("set") == name) & (pc.field("label") == "crack") & ~pc.field("flagged"))
        if missed.num_rows:
            assert names_in(lead)[0] == missed.sort_by("score")["image"][0].as_py()
        else:
            assert "None." in lead and not names_in(lead)


def test_every_card_has_original_reconstruction_and_anomaly_map(judged: Path) -> None:
    html = page_of(*read(judged), n_worst=4)
    kinds = [len(re.findall(f'alt="{kind} of', html)) for kind in ("original", "reconstruction", "anomaly map")]
    assert kinds[0] == kinds[1] == kinds[2] > 8


def test_every_scorer_that_the_figures_name_has_a_column_and_every_other_score_a_curve(judged: Path) -> None:
    scored, summary = read(judged)
    one = {"value": 0.123456, "low": 0.1, "high": 0.2}
    summary["sets"]["internal"]["one_line_of_numpy"] = {"roc_auc": one}
    summary["sets"]["internal"]["others"] = {"mean & <b>": {"roc_auc": one | {"value": 0.654321}, "special": one}}
    chance = pa.array(np.random.default_rng(0).normal(size=scored.num_rows))
    html = page_of(scored.append_column("baseline", chance), summary, n_worst=1)
    figures = section(html, "internal-figures")
    assert "one line of numpy" in figures and "0.1235" in figures and "0.6543" in figures and "special" in figures
    assert "mean &amp; &lt;b&gt;" in figures and "<b>mean" not in figures
    assert figures.count(">baseline</text>") == 2


def test_groups_with_errors_are_listed_and_single_images_are_not(judged: Path) -> None:
    scored, summary = read(judged)
    assert "worst groups" not in page_of(scored, summary, n_worst=0).lower()
    walls = pa.array([f"wall-{n % 3}" for n in range(scored.num_rows)])
    column = scored.schema.get_field_index("group")
    html = page_of(scored.set_column(column, "group", walls), summary, n_worst=0)
    rows = re.findall(
        r"<td>(wall-\d)</td><td class=\"n\">(\d+)</td><td class=\"n\">(\d+) of (\d+)</td><td class=\"n\">(\d+) of",
        section(html + "<h2", "external-groups"),
    )
    wrong = [int(missed) + int(alarms) for _, _, missed, _, alarms in rows]
    assert len(rows) == 3 and wrong == sorted(wrong, reverse=True)


def test_the_curves_mark_the_flags_of_photographs_and_the_page_says_what_decides(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, summary = read(judged)
    rule = "The p-value of a photograph must also be"
    assert rule not in page_of(scored, summary, n_worst=0)
    columns = {"flagged": pa.array(np.arange(scored.num_rows) % 4 == 0), "rows": pa.array([3] * scored.num_rows)}
    for name, values in columns.items():
        field = scored.schema.field(name)
        scored = scored.set_column(scored.schema.get_field_index(name), field, values.cast(field.type))
    marked = []
    monkeypatch.setattr(curves, "roc", lambda points, at, *_: marked.append(at) or "")
    assert rule in page_of(scored, summary, n_worst=0)
    rows = scored.to_pandas()
    rates = rows.groupby(["set", "label"])["flagged"].mean()
    assert marked == [(rates[name, "non_crack"], rates[name, "crack"]) for name in summary["sets"]]


def test_report_reproduces_the_page_from_the_folder(judged: Path, tmp_path: Path) -> None:
    outcome = report(ReportConfig(evaluation=str(judged), out=str(tmp_path / "again.html"), quiet=True))
    assert (tmp_path / "again.html").read_bytes() == (judged / "report.html").read_bytes()
    assert outcome.summary["anomaly_maps"] is True and outcome.summary["without_picture"] == 0


def test_a_folder_that_is_not_an_evaluation_is_refused(judged: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no evaluation: name the folder that crackvae evaluate wrote"):
        report(ReportConfig(evaluation=str(tmp_path), out=str(tmp_path / "p.html")))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(StorageError, match=r"sets: Field required.* Run crackvae evaluate again"):
        report(ReportConfig(evaluation=str(tmp_path), out=str(tmp_path / "p.html")))
