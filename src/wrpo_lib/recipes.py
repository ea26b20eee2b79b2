"""Recipes: one YAML file a stage and method, in one folder a profile.

A profile is a folder of recipes, never a branch in the code. Keys under ``training`` are fields
of :class:`wrpo_lib.training.WRPOConfig` (or TRL's ``SFTConfig`` for ``stage: sft``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.records import project_root

STAGES = ("sft", "preference")


@dataclass(frozen=True)
class Recipe:
    """What one training run needs.

    ``start_from``: ``target`` or ``target_sft``; ``rejected_from``: whose worst response is y_l;
    ``model`` and ``data``: hub ids or paths (None on nano, where the world provides them);
    ``lora``: fields of peft's ``LoraConfig`` or None for full fine-tuning; ``load``: keyword
    arguments of ``from_pretrained``.
    """

    profile: str
    name: str
    stage: str
    training: dict[str, Any]
    start_from: str = "target_sft"
    rejected_from: str = "target"
    model: str | None = None
    data: str | None = None
    lora: dict[str, Any] | None = None
    load: dict[str, Any] = field(default_factory=dict)
    launch: str | None = None


def recipes_dir() -> Path:
    """The checkout's ``recipes`` folder."""
    return project_root() / "recipes"


def profiles() -> list[str]:
    """Names of the profiles that have recipes."""
    return sorted(p.name for p in recipes_dir().iterdir() if p.is_dir())


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; syntax errors name the file and line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WRPOError(f"{path}{line}: not valid YAML; correct it") from error
    if not isinstance(value, dict):
        raise WRPOError(f"{path} holds no mapping; write `key: value` lines")
    return value


def recipe_path(profile: str, name: str) -> Path:
    """Where a recipe lies; unknown profiles and names list what there is."""
    folder = recipes_dir() / profile
    if profile not in profiles():
        raise WRPOError(f"unknown profile {profile!r}; choose one of {', '.join(profiles())}")
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise WRPOError(f"profile {profile!r} has no recipe {name!r}; it has {known}")
    return path


def load_recipe(profile: str, name: str, **overrides: Any) -> Recipe:
    """Read ``recipes/<profile>/<name>.yaml``; ``overrides`` replace values under ``training``."""
    path = recipe_path(profile, name)
    values = read_yaml(path)
    known = set(Recipe.__dataclass_fields__) - {"profile", "name"}
    if unknown := sorted(set(values) - known):
        raise WRPOError(
            f"{path}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}"
        )
    if values.get("stage") not in STAGES:
        raise WRPOError(
            f"{path}: stage is {values.get('stage')!r}; write one of {', '.join(STAGES)}"
        )
    if not isinstance(values.get("training"), dict):
        raise WRPOError(f"{path}: `training` is missing; give the trainer's fields there")
    values["training"] = {**values["training"], **overrides}
    return Recipe(profile=profile, name=name, **values)
