"""Describe this machine, and check that it can run a recipe, before anything is loaded."""

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from wrpo_lib.errors import WRPOError
from wrpo_lib.models import identity
from wrpo_lib.planner import GIB, plan_recipe
from wrpo_lib.recipes import Recipe

LARGEST_ON_A_CPU = 10**9  # parameters; more take weeks


def driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.CalledProcessError, IndexError):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.split()[0]
    return None


def describe(folder: Path) -> str:
    """This machine's PyTorch, CUDA, driver, cards with their memory, and free space, in a line."""
    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    shown = [f"{card.name}, {card.total_memory / GIB:.1f} GiB" for card in cards] or ["no GPU"]
    version = f"CUDA {torch.version.cuda or 'none'}, driver {driver() or 'none'}"
    free = f"{_free(folder) / GIB:.0f} GiB free for {folder}"
    return f"PyTorch {torch.__version__}, {version}; {'; '.join(shown)}; {free}"


def check(recipe: Recipe, output_dir: Path, gpus: int = 1) -> None:
    """Refuse a run that cannot go well on this machine: no usable card, too little memory or disk.

    :raises WRPOError: with the remedy; memory is a usual batch's, ``wrpo plan`` has the worst.
    """
    plan = plan_recipe(replace(recipe, data=None), gpus)
    size, on_cpu = plan.parameters.total, plan.args.use_cpu and "use_cpu" in recipe.training
    if not (on_cpu or torch.cuda.is_available()):
        here = "or pass --use_cpu true to train without it"
        if found := driver():
            what = f"PyTorch {torch.__version__} was built without CUDA; install its CUDA build"
            if built := torch.version.cuda:
                what = f"PyTorch cannot use it with CUDA {built}; update the driver, see nvidia-smi"
            raise WRPOError(f"this machine has an NVIDIA card (driver {found}), but {what}, {here}")
        if size > LARGEST_ON_A_CPU:
            what = f"no GPU was found, and {size / 1e9:.1f} billion parameters take weeks on a CPU"
            raise WRPOError(f"{what}; use a machine with one, try --dry-run, {here}")
        on_cpu = True
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not on_cpu:
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        have = min(card.total_memory for card in cards)
    need, cache = sum(plan.memory(plan.usual, True).values()), Path(HF_HUB_CACHE)
    download = 0 if identity(str(recipe.model)) else 2 * size
    remedy = "take a 4-bit recipe, LoRA or a smaller model; `wrpo plan` says what fits"
    lacks = [(need, have, "needs", "of memory on a device that", remedy)]
    remedy = "free some, or set another --output_dir, or HF_HOME for what is downloaded"
    lacks += [(download, _free(cache), "downloads", f"to {cache}, which", remedy)]
    lacks += [(plan.disk, _free(output_dir), "writes", f"to {output_dir}, which", remedy)]
    for want, free, verb, where, remedy in lacks:
        if want > free:
            what = f"{verb} about {want / GIB:.1f} GiB {where} has {free / GIB:.1f}"
            raise WRPOError(f"{recipe.where}: {what}; {remedy}")


def _free(folder: Path) -> int:
    """Bytes free on the disk that holds ``folder``, which need not exist yet."""
    return shutil.disk_usage(next(filter(Path.exists, (folder, *folder.absolute().parents)))).free
