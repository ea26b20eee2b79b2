"""Sampling responses and scoring them: engines that answer alike, reward models, resumable stages.

An engine is a callable from requests to responses.
"""

from wrpo_lib.generation.engines import ServerEngine, VLLMEngine, make_engine
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.request import Request, Response, Sampling

__all__ = [
    "Request",
    "Response",
    "Sampling",
    "ServerEngine",
    "TransformersEngine",
    "VLLMEngine",
    "make_engine",
    "sample",
]
