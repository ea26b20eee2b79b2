"""Sampling responses and scoring them: engines that answer alike, reward models, resumable stages.

An engine is a callable from requests to responses: :class:`~wrpo_lib.generation.local.LocalEngine`
(transformers in this process), :class:`~wrpo_lib.generation.offline.VLLMEngine`,
:class:`~wrpo_lib.generation.served.ServedEngine` (any OpenAI-compatible server).
"""

from wrpo_lib.generation.local import LocalEngine
from wrpo_lib.generation.request import Engine, Request, Response, Sampling
from wrpo_lib.generation.sample import sample
from wrpo_lib.generation.served import ServedEngine

__all__ = ["Engine", "LocalEngine", "Request", "Response", "Sampling", "ServedEngine", "sample"]
