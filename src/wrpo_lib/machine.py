"""What this machine has, and what a run lacks on it, before anything is downloaded or computed."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from wrpo_lib.errors import WRPOError
from wrpo_lib.models import identity
from wrpo_lib.planner import Plan, plan_recipe
from wrpo_lib.recipes import Recipe

GIB = 2**30
LARGEST_ON_A_CPU = 10**9  # parameters; more take weeks


def driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(done.stdout.split()), None)


def _cards() -> list[Any]:
    return [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]


def describe(folder: Path) -> str:
    """PyTorch, CUDA, driver, cards with their memory, and the free space, in a line."""
    shown = [f"{card.name}, {card.total_memory / GIB:.1f} GiB" for card in _cards()] or ["no GPU"]
    version = f"CUDA {torch.version.cuda or 'none'}, driver {driver() or 'none'}"
    free = f"{_free(folder) / GIB:.0f} GiB free for {folder}"
    return f"PyTorch {torch.__version__}, {version}; {'; '.join(shown)}; {free}"


def check(recipe: Recipe, output_dir: Path, gpus: int = 1) -> None:
    """Refuse a run that cannot go well here: no usable card, too little memory or disk.

    :raises WRPOError: with the remedy; memory is a usual batch's, ``wrpo plan`` has the worst.
    """
    plan = plan_recipe(replace(recipe, data=None), gpus)
    on_cpu = plan.args.use_cpu and "use_cpu" in recipe.training
    if not (on_cpu or torch.cuda.is_available()):
        _check_card(plan)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available() and not on_cpu:
        have = min(card.total_memory for card in _cards())
    need = sum(plan.memory(plan.usual, True).values())
    if need > have:
        what = f"needs about {need / GIB:.1f} GiB of memory on a device that has {have / GIB:.1f}"
        remedy = "take a 4-bit recipe, LoRA or a smaller model; `wrpo plan` says what fits"
        raise WRPOError(f"{recipe.where}: {what}; {remedy}")
    download = 0 if identity(str(recipe.model)) else 2 * plan.parameters.total
    needs = {"downloads": (download, Path(HF_HUB_CACHE)), "writes": (plan.disk, output_dir)}
    for verb, (size, folder) in needs.items():
        if size > (free := _free(folder)):
            what = f"{verb} about {size / GIB:.1f} GiB to {folder}, which has {free / GIB:.1f}"
            remedy = "free some, or set another --output_dir, or HF_HOME for what is downloaded"
            raise WRPOError(f"{recipe.where}: {what}; {remedy}")


def _check_card(plan: Plan) -> None:
    """Why there is no GPU to train on, unless the model is small and the machine has none."""
    here = "or pass --use_cpu true to train without it"
    if found := driver():
        what = f"PyTorch {torch.__version__} was built without CUDA; install its CUDA build"
        if built := torch.version.cuda:
            what = f"PyTorch cannot use it with CUDA {built}; update the driver, see nvidia-smi"
        raise WRPOError(f"this machine has an NVIDIA card (driver {found}), but {what}, {here}")
    if (size := plan.parameters.total) > LARGEST_ON_A_CPU:
        what = f"no GPU was found, and {size / 1e9:.1f} billion parameters take weeks on a CPU"
        raise WRPOError(f"{what}; use a machine with one, try --dry-run, {here}")


def _free(folder: Path) -> int:
    """Bytes free on the disk that holds ``folder``, which need not exist yet."""
    return shutil.disk_usage(next(filter(Path.exists, (folder, *folder.absolute().parents)))).free
