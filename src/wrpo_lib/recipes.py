"""Recipes: one YAML file per stage and method, in one folder per profile.

Keys under ``training`` are fields of :class:`wrpo_lib.training.WRPOConfig` (or TRL's ``SFTConfig``
for ``stage: sft``). ``base: wrpo`` takes all values of ``wrpo.yaml`` beside a recipe, ``base:
workstation/wrpo`` those of another profile; its own keys replace or add to them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pydantic
import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.records import project_root
from wrpo_lib.replies import LIKE_A_KEY

MAPPINGS = ("training", "lora", "load", "quantization")
"""Keys that hold fields of a library's class; a recipe adds to those of its base."""


@dataclass(frozen=True)
class Recipe:
    """What one training run needs; on nano the world provides model and data."""

    profile: str
    name: str
    stage: Literal["sft", "preference"]
    training: dict[str, Any]
    start_from: Literal["target_sft", "target"] = "target_sft"
    rejected_from: Literal["target", "source"] = "target"  # whose worst response is y_l
    model: str | None = None  # hub id, folder, GGUF file or package:NAME
    data: str | None = None  # file of quadruples
    eval_data: str | None = None
    architecture: str = "llama"  # the model_type that a dry run builds in small
    lora: dict[str, Any] | None = None  # fields of peft's LoraConfig; None: full fine-tuning
    merge: bool = False  # write the base model with the trained adapter in it, if there is one
    load: dict[str, Any] = field(default_factory=dict)  # arguments of from_pretrained
    quantization: dict[str, Any] | None = None  # fields of BitsAndBytesConfig
    launch: str | None = None  # file of recipes/accelerate that the batch arithmetic is for
    output: str | None = None
    where: str = "this recipe"  # as an error names it

    @property
    def output_dir(self) -> Path:
        """Where the run writes unless it is told otherwise."""
        return Path(self.output or project_root() / "runs" / self.profile / self.name)


@contextmanager
def named(recipe: Recipe) -> Iterator[None]:
    """What a library cannot do with a recipe, as one sentence that begins with the recipe."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if reason.startswith(recipe.where):
            raise
        remedy = "" if isinstance(error, WRPOError) else "; correct it, or try it with --dry-run"
        raise WRPOError(f"{recipe.where}: {LIKE_A_KEY.sub('***', reason)}{remedy}") from error


def override(recipe: Recipe, words: list[str]) -> Recipe:
    """``recipe`` with command-line ``words`` in place of its values.

    ``--beta 1`` and ``beta=1`` set fields of ``training``, ``--lora.r 8`` those of other mappings.
    """
    rest = [f"--{word}" if "=" in word and not word.startswith("-") else word for word in words]
    changes: dict[str, Any] = {}
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if not given:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, _, key = option.removeprefix("--").replace("-", "_").rpartition(".")
        section = section or "training"
        if not option.startswith("--") or section not in MAPPINGS:
            raise WRPOError(f"unknown option {option!r}; {nearest(section, MAPPINGS)}")
        values = changes.setdefault(section, dict(getattr(recipe, section) or {}))
        text = section == "training" and not value.startswith(("[", "{"))
        with named(recipe):
            values[key] = value if text else yaml.safe_load(value)
    return replace(recipe, **changes)


def checked(
    kind: type, values: dict[str, Any], where: str | Path, section: str = ""
) -> dict[str, Any]:
    """``values`` in the types of the fields of a dataclass ``kind``, or an error with the key."""
    schema = _schema(kind)
    try:
        made = schema.model_validate(values)
    except pydantic.ValidationError as error:
        found = error.errors()[0]
        key = str(found["loc"][0])
        what = f"{section}{key}: {found['msg'].removeprefix('Input ')}; correct it"
        if found["type"] == "extra_forbidden":
            what = f"unknown key {section + key!r}; {nearest(key, schema.model_fields)}"
        raise WRPOError(f"{where}: {what}") from error
    return {key: getattr(made, key) for key in values}


@cache
def _schema(kind: type) -> type[pydantic.BaseModel]:
    """Every field of a dataclass, none of them required."""
    hints = get_type_hints(kind)
    typed: dict[str, Any] = {f.name: (hints[f.name], None) for f in fields(kind) if f.init}
    config: Any = {"extra": "forbid", "arbitrary_types_allowed": True}
    config["coerce_numbers_to_str"] = True  # an output folder may be called 7
    return pydantic.create_model(kind.__name__, __config__=config, **typed)


def nearest(key: str, known: Iterable[str]) -> str:
    """What to do about an unknown key: the known one that looks most like it."""
    close = get_close_matches(key, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "remove it"


def recipes_dir() -> Path:
    """The checkout's ``recipes`` folder."""
    return project_root() / "recipes"


def recipe_names(profile: str) -> list[str]:
    """Names of a profile's recipes; the description of the nano world is none."""
    return sorted(p.stem for p in (recipes_dir() / profile).glob("*.yaml") if p.stem != "world")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; syntax errors name the file, line and column."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        what = " ".join(str(error).split())
        raise WRPOError(f"{path} cannot be read or is not valid YAML ({what}); fix it") from error
    if not isinstance(value, dict):
        raise WRPOError(f"{path} holds no mapping; write `key: value` lines")
    return value


def recipe_path(profile: str, name: str) -> Path:
    """Where a recipe lies; unknown ones list what there is."""
    path = recipes_dir() / profile / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(recipe_names(profile) or sorted(p.name for p in recipes_dir().iterdir()))
        raise WRPOError(f"no recipe {profile}/{name}; write PROFILE/NAME or a YAML file ({known})")
    return path


def load_recipe(profile: str, name: str = "", **overrides: Any) -> Recipe:
    """Read ``recipes/<profile>/<name>.yaml``; ``overrides`` replace values under ``training``.

    Without ``name``, ``profile`` is ``profile/name`` or the path of a YAML file.
    """
    text = f"{profile}/{name}" if name else profile
    folder, _, stem = text.partition("/")
    path = Path(text) if text.endswith((".yaml", ".yml")) else recipe_path(folder, stem)
    root, full = project_root(), path.resolve()
    where = str(full.relative_to(root) if full.is_relative_to(root) else full)
    values = _with_base(path, ())
    values |= {"profile": full.parent.name, "name": path.stem, "where": where}
    if not values.get("stage") or not values.get("training"):
        raise WRPOError(f"{path} needs a `stage`, sft or preference, and fields under `training`")
    values["training"] = {**values["training"], **overrides}
    # relative paths start at the project's root, whatever the working folder is
    for part in (values, values["training"]):
        names = ("data", "eval_data", "output", "ref_cache_dir")
        part.update({name: str(root / part[name]) for name in names if part.get(name)})
    model = values.get("model") or ""
    if model.count("/") > 1 and ":" not in model:  # no hub id
        values["model"] = str(root / model)
    return Recipe(**values)


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's values over those of its base."""
    if path in above:
        raise WRPOError(f"{path}: its `base` refers back to itself; remove the cycle")
    values = read_yaml(path)
    base = values.pop("base", None)
    values = checked(Recipe, values, path)
    if base is None:
        return values
    profile, slash, name = str(base).partition("/")
    other = recipe_path(profile, name) if slash else path.parent / f"{base}.yaml"
    below = _with_base(other, (*above, path))
    merged = {k: {**below[k], **values[k]} for k in MAPPINGS if values.get(k) and below.get(k)}
    return {**below, **values, **merged}
