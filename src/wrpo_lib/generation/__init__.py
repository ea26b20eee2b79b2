"""Sampling responses and scoring them: engines that answer alike, reward models, resumable stages.

An engine is a callable from requests to responses. :func:`make_engine` makes one of three: a
transformers model in this process, vLLM, or any OpenAI-compatible server.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.engines import ServerEngine, VLLMEngine
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.request import Engine, Request, Response, Sampling
from wrpo_lib.models import load_causal_lm
from wrpo_lib.server import Server

__all__ = [
    "OPTIONS",
    "Engine",
    "Request",
    "Response",
    "Sampling",
    "ServerEngine",
    "TransformersEngine",
    "VLLMEngine",
    "make_engine",
    "sample",
]

OPTIONS: dict[str, dict[str, type]] = {
    "transformers": {"batch_tokens": int},
    "vllm": {
        "tensor_parallel_size": int,
        "max_model_len": int,
        "gpu_memory_utilization": float,
        "enforce_eager": bool,
        "enable_chunked_prefill": bool,
    },
    "server": {"timeout": float, "retries": int, "fold_system": bool},
}
"""What each kind of engine takes beside what all of them take."""


def make_engine(
    kind: str,
    model: str,
    *,
    server: Server | None = None,
    extra_body: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **hub: Any,
) -> Any:
    """An engine by its kind: ``transformers``, ``vllm`` or ``server``.

    ``server`` and ``extra_body`` are for a server, ``options`` one of :data:`OPTIONS`, ``hub`` are
    ``revision``, ``trust_remote_code`` and ``dtype``.
    """
    own = dict(options or {})
    if kind == "vllm":
        return VLLMEngine(model, **hub, **own)
    if kind == "transformers":
        return TransformersEngine(*load_causal_lm(model, **hub), **own)
    if kind != "server":
        raise WRPOError(f"unknown engine {kind!r}; choose transformers, vllm or server")
    if server is None or not server.base_url:
        raise WRPOError("--engine server needs --base-url, such as http://localhost:8000/v1")
    fold = own.pop("fold_system", False)
    return ServerEngine(replace(server, **own), model, fold, extra_body or {})
