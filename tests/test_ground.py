"""The ground: one source of versions, make's own promises, and checks that do find faults."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".ci"))
import checks
import lock

ROOT = checks.ROOT


def test_the_environment_under_test_is_the_locked_one_and_fits_pyproject():
    pins = lock.pins((ROOT / "requirements.lock").read_text())
    locked = {name: pin.split("==")[1] for name, pin in pins.items()}
    assert {name: importlib.metadata.version(name).partition("+")[0] for name in locked} == locked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(wanted)
        version = locked.get(lock.normal(wanted.name), "0.dev0")
        fits = wanted.specifier.contains(version, prereleases=True)
        assert fits, f"{wanted}: locked {version}; run `make lock`"


def test_lock_and_environment_are_what_the_freeze_gives():
    freeze = "torch==2.13.0+cpu\nnvidia-cudnn-cu13==9\ntriton==3\npip==26\nA.b_C==1\n-e /x\n# x\n"
    assert lock.pins(freeze) == {"a-b-c": "A.b_C==1", "torch": "torch==2.13.0"}
    text = (ROOT / "requirements.lock").read_text()  # fits a machine with or without a GPU
    assert lock.lock_text(lock.pins(text)) == text
    assert lock.environment_text(lock.pins(text)) == (ROOT / "environment.yml").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_public_target_and_names_a_missing_interpreter(tmp_path):
    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)

    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    shown = make("-s", "help").stdout
    for target in targets[1].split():
        assert re.search(rf"^\s+{target}\s+\w", shown, re.MULTILINE), target
    done = make("test", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    assert "'no-such-python' is missing or older than Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        "<p style=\"background:url('https://cdn.example/x.png')\">",
        "@font-face{src:url(https://cdn.example/x.woff2)}",
        'e.src = "https://cdn.example/x.js"',
    ],
)
def test_a_page_that_loads_from_the_network_is_found(tmp_path, text):
    links = '<link rel="canonical" href="https://example.org"><a href="https://example.org">x</a>'
    (tmp_path / "index.html").write_text(links)
    assert checks.offline_faults(tmp_path) == []
    suffix = {"<": "html", "@": "css", "e": "js"}[text[0]]
    (tmp_path / f"a.{suffix}").write_text(text)
    assert len(checks.offline_faults(tmp_path)) == 1


def test_stored_outputs_and_a_figure_that_is_not_drawn_are_found(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    drawn = {"metadata": {"mystnb": {"figure": {"name": "reward-figure"}}}}
    counted, kept = {"metadata": {}, "execution_count": 3}, {"metadata": {}, "outputs": [{}]}
    text = json.dumps({"cells": [drawn, counted, kept]})
    (tmp_path / "notebooks" / "a.ipynb").write_text(text)
    (fault,) = checks.notebook_faults(tmp_path)
    assert "a.ipynb: 2 cells keep outputs" in fault
    built = tmp_path / "site" / "notebooks" / "a.html"
    built.parent.mkdir(parents=True)
    built.write_text("<p>no figure</p>")
    (fault,) = checks.drawn_faults(tmp_path / "site", tmp_path)
    assert "reward-figure" in fault
    built.write_text('<figure class="x" id="reward-figure"><img src="a.png"></figure>')
    assert checks.drawn_faults(tmp_path / "site", tmp_path) == []
