"""Sampling responses and scoring them: engines that answer alike, reward models, resumable stages.

An engine is a callable from requests to responses. :func:`make_engine` makes one of three: a
transformers model in this process, vLLM, or any OpenAI-compatible server.
"""

from __future__ import annotations

from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.openai_engine import ServerEngine
from wrpo_lib.generation.request import Engine, Request, Response, Sampling
from wrpo_lib.server import Server

__all__ = [
    "Engine",
    "Request",
    "Response",
    "Sampling",
    "ServerEngine",
    "TransformersEngine",
    "make_engine",
    "sample",
]


def make_engine(
    kind: str,
    model: str,
    *,
    server: Server | None = None,
    fold_system: bool = False,
    extra_body: dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "auto",
    batch_tokens: int = 32768,
    **vllm_options: Any,
) -> Any:
    """An engine by its kind: ``transformers``, ``vllm`` or ``server``.

    ``server``, ``fold_system`` and ``extra_body`` are for a server, ``batch_tokens`` for
    transformers; ``vllm_options`` go to ``vllm.LLM`` (``tensor_parallel_size`` and the like).
    """
    if kind == "server":
        if server is None or not server.base_url:
            raise WRPOError("--engine server needs --base-url, such as http://localhost:8000/v1")
        return ServerEngine(server, model, fold_system, extra_body or {})
    hub: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "dtype": dtype,
    }
    if kind == "vllm":
        from wrpo_lib.generation.vllm_engine import VLLMEngine

        return VLLMEngine(model, **hub, **vllm_options)
    if kind != "transformers":
        raise WRPOError(f"unknown engine {kind!r}; choose transformers, vllm or server")
    from wrpo_lib.models import load_causal_lm

    return TransformersEngine(*load_causal_lm(model, **hub), batch_tokens=batch_tokens)
