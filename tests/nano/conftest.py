"""The study's recipe, whole and in small."""

import copy
from typing import Any

import pytest
import torch

from wrpo_lib.nano.world import World, nano_recipe

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recipe() -> dict[str, Any]:
    """What the study reads."""
    return nano_recipe()


@pytest.fixture
def world(recipe: dict[str, Any]) -> World:
    """A world of the development seeds."""
    return World(100, recipe)


@pytest.fixture(scope="session")
def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same with few prompts and steps; nothing is learned."""
    small = copy.deepcopy(recipe)
    small["splits"] = {"heldout": 24, "sft": 32, "preference": 48}
    for model in (small["target"], *small["sources"]["models"]):
        model["phases"] = [p | {"steps": 3, "texts": 200, "batch": 8} for p in model["phases"]]
    small["sft"] = {"target_sft": small["sft"]["target_sft"] | {"steps": 2}}
    return small | {"training": {"steps": 4, "batch": 4}}
