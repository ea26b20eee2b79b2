"""Our scripts: pictures with sliders and long tables, each on a page of its own."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
BETA, LOG_RATIOS = 0.01, (-120.0, 50.0, -30.0)


@pytest.fixture
def shown(tmp_path: Path, visit: Callable[..., Page]) -> Callable[[str, str], Page]:
    """Opens a page that holds the HTML given and one of our scripts."""

    def show(html: str, script: str) -> Page:
        page = tmp_path / "page.html"
        source = (STATIC / script).read_text(encoding="utf-8")
        text = f'<meta charset="utf-8"><body class="bd-article">{html}<script>{source}</script>'
        page.write_text(text, encoding="utf-8")
        return visit(page)

    return show


def widget(name: str, data: dict[str, Any]) -> str:
    """The place of a widget with its data."""
    script = f'<script type="application/json">{json.dumps(data)}</script>'
    return f'<div data-widget="{name}">{script}</div>'


def numbers(text: str) -> list[float]:
    """The decimal numbers in a text, as the page writes them."""
    return [float(found) for found in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_the_alpha_slider_computes_the_loss(
    alpha: float, shown: Callable[[str, str], Page]
) -> None:
    data = {"beta": BETA, "log_ratios": LOG_RATIOS}
    place = shown(widget("alpha", data), "widgets.js").locator("[data-widget]")
    place.locator("input").first.fill(str(alpha))
    source, target, rejected = LOG_RATIOS
    margin = BETA * (alpha * source + (1 - alpha) * target - rejected)
    pull = BETA / (1 + math.exp(margin))
    found = numbers(place.locator("p.widget-said").last.inner_text())
    assert found == pytest.approx([margin, math.log1p(math.exp(-margin))], abs=1e-3)
    weights = numbers(place.locator(".widget-shares").inner_text())
    assert weights == pytest.approx([alpha * pull, (1 - alpha) * pull, pull], abs=1e-5)


def test_frames_show_the_densities_of_the_chosen_model(shown: Callable[[str, str], Page]) -> None:
    frames = [
        {"name": "Target", "own": [0, 1, 0], "source": [1, 0, 0], "own_mean": 2, "source_mean": 1},
        {"name": "WRPO", "own": [0, 0, 1], "source": [0, 1, 0], "own_mean": 3, "source_mean": 2},
    ]
    data = {"x": [1, 2, 3], "frames": frames}
    place = shown(widget("frames", data), "widgets.js").locator("[data-widget]")
    curves = place.locator("path")
    before = [curve.get_attribute("d") for curve in curves.all()]
    assert place.locator("output").inner_text() == "Target"
    place.locator("input").press("End")
    assert place.locator("output").inner_text() == "WRPO"
    after = [curve.get_attribute("d") for curve in curves.all()]
    assert after[1] == before[0]  # the sources' new density is the target's old one
    assert after[0] not in before


def test_long_tables_sort_as_numbers_and_download_and_short_ones_stay(
    shown: Callable[[str, str], Page], tmp_path: Path
) -> None:
    values = ["10", "−2.5", "9 [8, 10]", "", "1,200", "3", "0.5", "4"]
    rows = "".join(f'<tr><td>say "{v}", twice</td><td>{v}</td></tr>' for v in values)
    head = "<thead><tr><th>text</th><th>value</th></tr></thead>"
    short = "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table>"
    page = shown(f"<table>{head}<tbody>{rows}</tbody></table>{short}", "reading.js")
    assert (page.locator("button").count(), page.locator("a").count()) == (2, 1)
    button = page.locator("button.sort").last
    cells = page.locator("table").first.locator("td:last-child")
    rising = ["−2.5", "0.5", "3", "4", "9 [8, 10]", "10", "1,200"]
    for order in (rising, rising[::-1]):
        button.click()
        assert cells.all_inner_texts() == [*order, ""]  # what is not known stays last
    assert page.locator("td.number").count() == 7
    with page.expect_download() as waiting:
        page.locator("a.table-csv").click()
    waiting.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        saved = list(csv.reader(file))
    assert saved[:2] == [["text", "value"], ['say "1,200", twice', "1,200"]]
