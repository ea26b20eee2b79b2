"""The pictures with sliders, on a page of their own."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator
from visits import Visit

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
BETA, LOG_RATIOS = 0.01, (-120.0, 50.0, -30.0)


@pytest.fixture
def shown(tmp_path: Path, visit: Visit) -> Any:
    """Opens a page that holds one widget with the data given; returns its place."""

    def show(name: str, data: dict[str, Any]) -> Locator:
        place = f'<script type="application/json">{json.dumps(data)}</script>'
        script = (STATIC / "widgets.js").read_text(encoding="utf-8")
        page = tmp_path / "page.html"
        text = f'<meta charset="utf-8"><div data-widget="{name}">{place}</div>'
        page.write_text(f"{text}<script>{script}</script>", encoding="utf-8")
        return visit.open(page).locator("[data-widget]")

    return show


def numbers(text: str) -> list[float]:
    """The decimal numbers in a text, as the page writes them."""
    return [float(found) for found in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_the_alpha_slider_computes_the_loss(alpha: float, shown: Any) -> None:
    place = shown("alpha", {"beta": BETA, "log_ratios": LOG_RATIOS})
    place.locator("input").first.fill(str(alpha))
    source, target, rejected = LOG_RATIOS
    margin = BETA * (alpha * source + (1 - alpha) * target - rejected)
    pull = BETA / (1 + math.exp(margin))
    found = numbers(place.locator("p.widget-said").last.inner_text())
    assert found == pytest.approx([margin, math.log1p(math.exp(-margin))], abs=1e-3)
    weights = numbers(place.locator(".widget-shares").inner_text())
    assert weights == pytest.approx([alpha * pull, (1 - alpha) * pull, pull], abs=1e-5)


def test_frames_show_the_densities_of_the_chosen_model(shown: Any) -> None:
    frames = [
        {"name": "Target", "own": [0, 1, 0], "source": [1, 0, 0], "own_mean": 2, "source_mean": 1},
        {"name": "WRPO", "own": [0, 0, 1], "source": [0, 1, 0], "own_mean": 3, "source_mean": 2},
    ]
    place = shown("frames", {"x": [1, 2, 3], "frames": frames})
    curves = place.locator("path")
    before = [curve.get_attribute("d") for curve in curves.all()]
    assert place.locator("output").inner_text() == "Target"
    place.locator("input").press("End")
    assert place.locator("output").inner_text() == "WRPO"
    after = [curve.get_attribute("d") for curve in curves.all()]
    assert after[1] == before[0]  # the sources' new density is the target's old one
    assert after[0] not in before
