"""Sampling responses and scoring them: engines that answer alike, reward models, resumable stages.

An engine is a callable from requests to responses.
"""

from wrpo_lib.generation.engines import make_engine
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.request import Sampling

__all__ = ["Sampling", "TransformersEngine", "make_engine", "sample"]
