"""The study's recipe in small: two worlds whose models are trained for a moment."""

import copy
from typing import Any

import pytest
import torch

from wrpo_lib.nano.world import World
from wrpo_lib.recipes import read_yaml, recipe_path

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe() -> dict[str, Any]:
    """What the study reads."""
    return read_yaml(recipe_path("nano", "world"))["testbed"]


@pytest.fixture
def world(recipe: dict[str, Any]) -> World:
    """A world of the development seeds."""
    return World(100, recipe)


@pytest.fixture
def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same with few prompts and steps; nothing is learned."""
    small = copy.deepcopy(recipe)
    small["splits"] = {"heldout": 24, "sft": 32, "preference": 90}
    for model in (small["target"], *small["sources"]["models"]):
        for phase in model["phases"]:
            phase |= {"steps": 3, "texts": 200, "batch": 8}
    for spec in small["sft"].values():
        spec["steps"] = 2
    return small | {"training": {"steps": 8, "batch": 4}}
