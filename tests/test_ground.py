"""The ground: one source of versions, make's own promises, and checks that do find faults."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CARD_PACKAGES = [
    "jupyter",
    "jupyter-book",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "matplotlib",
    "seaborn",
    "alpaca-eval",
]


def load(name: str) -> ModuleType:
    """Import one of the scripts in .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = load("lock")
checks = load("checks")


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """Normal name -> version, as requirements.lock has it."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {lock.normal(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# -- versions -----------------------------------------------------------------------------------


def test_every_range_in_pyproject_contains_the_locked_version(locked, project):
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    outside = [
        f"{requirement}: locked {locked.get(lock.normal(requirement.name), 'nothing')}"
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(
            locked.get(lock.normal(requirement.name), "0.dev0"), prereleases=True
        )
    ]
    assert not outside, "run `make lock`: " + "; ".join(outside)


def test_the_lock_fits_a_machine_with_or_without_a_gpu(locked):
    assert not [version for version in locked.values() if Version(version).local]
    assert not [name for name in locked if name.startswith(lock.CUDA_PREFIXES)]


def test_environment_is_what_the_lock_gives(locked):
    text = (ROOT / "requirements.lock").read_text()
    assert lock.lock_text(lock.pins(text)) == text
    assert lock.environment_text(lock.pins(text)) == (ROOT / "environment.yml").read_text()


def test_environment_pins_the_packages_of_the_card(locked):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "wrpo"
    assert "python=3.11" in environment["dependencies"]
    pip = environment["dependencies"][-1]["pip"]
    for name in CARD_PACKAGES:
        assert f"{name}=={locked[name]}" in pip
    assert "-r requirements.lock" in pip


def test_the_environment_under_test_is_the_locked_one(locked):
    drifted = []
    for name, version in locked.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found.partition("+")[0] != version:
            drifted.append(f"{name} {found}, locked {version}")
    assert not drifted, "; ".join(drifted)


def test_the_freeze_is_cleaned():
    freeze = (
        "torch==2.13.0+cpu\nnvidia-cudnn-cu13==9\ntriton==3\npip==26\nA.b_C==1\n-e /x\n# note\n"
    )
    assert lock.pins(freeze) == {"a-b-c": "A.b_C==1", "torch": "torch==2.13.0"}


def test_extras_are_optional_and_named(project):
    extras = project["optional-dependencies"]
    names = {extra: {Requirement(line).name for line in extras[extra]} for extra in extras}
    assert names["gpu"] == {"vllm", "deepspeed", "liger-kernel", "bitsandbytes"}
    assert names["cluster"] == {"ray"}
    base = {Requirement(line).name for line in project["dependencies"]}
    assert not base & (names["gpu"] | names["cluster"])


# -- import time --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["torch", "transformers", "pandas", "matplotlib", "datasets"])
def test_importing_the_library_leaves_heavy_modules_alone(module):
    code = f"import sys, wrpo_lib; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- make ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_public_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in targets[1].split():
        assert re.search(rf"^\s+{target}\s+\w", shown, re.MULTILINE), target


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_names_the_interpreter_that_is_missing(tmp_path):
    done = subprocess.run(
        ["make", "test", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'no-such-python' is missing or older than Python 3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


# -- the checks find what they look for ---------------------------------------------------------


def notebook(**cell) -> str:
    base = {"cell_type": "code", "source": "1", "outputs": [], "execution_count": None}
    return json.dumps({"cells": [base | cell]})


def test_stored_outputs_are_found(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "clean.ipynb").write_text(notebook())
    (folder / "counted.ipynb").write_text(notebook(execution_count=3))
    (folder / "kept.ipynb").write_text(notebook(outputs=[{"output_type": "stream"}]))
    faults = checks.notebook_faults(tmp_path)
    assert [fault.split(":")[0] for fault in faults] == [
        "notebooks/counted.ipynb",
        "notebooks/kept.ipynb",
    ]


def test_no_notebook_of_ours_stores_outputs():
    assert checks.notebook_faults(ROOT) == []


def test_missing_results_are_found(tmp_path):
    assert "missing" in checks.result_faults(tmp_path)[0]
    results = tmp_path / "results"
    results.mkdir()
    (results / "here.csv").write_text("x\n")
    (results / "empty.csv").touch()
    (results / "figure_map.csv").write_text(
        "figure,data_file\na,results/here.csv\nb,results/gone.csv\nc,results/empty.csv\n"
    )
    faults = checks.result_faults(tmp_path)
    assert len(faults) == 2
    assert "line 3: results/gone.csv" in faults[0]
    assert "line 4: results/empty.csv" in faults[1]


def test_open_slots_are_found(tmp_path):
    (tmp_path / "README.md").write_text("text\n<!-- SLOT(table): rows -->\n")
    faults = checks.slot_faults(tmp_path)
    assert len(faults) == 1
    assert faults[0].startswith("README.md line 2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<img src="//cdn.example/x.png">'),
        ("a.html", '<link rel="stylesheet" href="http://cdn.example/x.css">'),
        ("a.html", "<style>@import url(https://cdn.example/x.css);</style>"),
        ("a.html", "<p style=\"background:url('https://cdn.example/x.png')\">"),
        ("a.html", '<script>import("https://cdn.example/x.js")</script>'),
        ("a.css", "@font-face{src:url(https://cdn.example/x.woff2)}"),
        ("a.js", 'e.src = "https://cdn.example/x.js"'),
    ],
)
def test_a_page_that_loads_from_the_network_is_found(tmp_path, name, text):
    (tmp_path / "index.html").write_text('<a href="https://example.org">a link may stay</a>')
    assert checks.offline_faults(tmp_path) == []
    (tmp_path / name).write_text(text)
    assert len(checks.offline_faults(tmp_path)) == 1


def test_a_figure_that_is_not_drawn_is_found(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    cell = {"metadata": {"mystnb": {"figure": {"name": "reward-figure"}}}}
    (tmp_path / "notebooks" / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    built = tmp_path / "site" / "notebooks" / "a.html"
    built.parent.mkdir(parents=True)
    built.write_text("<p>no figure</p>")
    (fault,) = checks.drawn_faults(tmp_path / "site", tmp_path)
    assert "reward-figure" in fault
    built.write_text('<figure class="x" id="reward-figure"><img src="a.png"></figure>')
    assert checks.drawn_faults(tmp_path / "site", tmp_path) == []


def test_a_backend_that_starts_in_a_figure_stays_interactive() -> None:
    import matplotlib as mpl

    from wrpo_lib.figures.style import style

    before = mpl.is_interactive()
    try:
        with style():
            mpl.interactive(True)
        assert mpl.is_interactive()
    finally:
        mpl.interactive(before)
