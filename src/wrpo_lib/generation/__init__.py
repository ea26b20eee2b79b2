"""Sampling and scoring: engines that answer alike, reward models, resumable stages."""

from wrpo_lib.generation.engines import make_engine
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.stage import Sampling

__all__ = ["Sampling", "TransformersEngine", "make_engine", "sample"]
