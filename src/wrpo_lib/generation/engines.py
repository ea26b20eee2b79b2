"""Engines that answer alike: a model in this process (transformers or vLLM), or one on a server.

vLLM 0.30.0 has run on a CPU, see ``tests/generation/test_vllm.py``; not on a GPU, nor on several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from wrpo_lib.chat import Renderer, fold_system
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import TransformersEngine
from wrpo_lib.generation.request import InProcess, Request, Response
from wrpo_lib.models import load_causal_lm, load_tokenizer
from wrpo_lib.server import Server, complete

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
    kind: str, model: str, options: dict[str, Any] | None = None, **hub: Any
) -> TransformersEngine | VLLMEngine | ServerEngine:
    """An engine by its kind: ``transformers``, ``vllm`` or ``server``.

    ``options`` are those of :data:`OPTIONS`, for a server also ``server`` and ``extra_body``;
    ``hub`` are ``revision``, ``trust_remote_code`` and ``dtype``.
    """
    own = dict(options or {})
    if kind == "vllm":
        return VLLMEngine(model, **hub, **own)
    if kind == "transformers":
        return TransformersEngine(*load_causal_lm(model, **hub), **own)
    if kind != "server":
        raise WRPOError(f"unknown engine {kind!r}; choose transformers, vllm or server")
    server = own.pop("server", Server(""))
    if not server.base_url:
        raise WRPOError("--engine server needs --base-url, such as http://localhost:8000/v1")
    http = {name: own.pop(name) for name in ("timeout", "retries") if name in own}
    return ServerEngine(replace(server, **http), model, **own)


@dataclass
class ServerEngine:
    """One HTTP request per response, so that each has its own seed and a lost one costs little.

    ``fold_system`` puts a system turn into the user turn, for templates that have no place for one.
    ``extra_body`` is merged into every request; None as a value removes a field, for servers that
    refuse one. Whether a server honours ``seed``, and which sampling defaults it adds (vLLM
    takes top-k from the model's generation configuration), is up to the server.
    """

    server: Server
    model: str
    fold_system: bool = False
    extra_body: dict[str, Any] = field(default_factory=dict)
    folded: int = 0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses as they arrive."""
        for request, body, error in complete(self.server, ((r, self._body(r)) for r in requests)):
            asked, seed = (request.key, request.sample), request.seed
            if body is None:
                yield Response(*asked, "", None, "error", seed, error)
                continue
            choice, usage = body["choices"][0], body.get("usage") or {}
            text = (choice.get("message") or {}).get("content") or ""
            if not isinstance(text, str):  # in parts
                text = "".join(part.get("text", "") for part in text)
            reason = choice.get("finish_reason") or "stop"
            yield Response(*asked, text, usage.get("completion_tokens"), reason, seed)

    def _body(self, request: Request) -> dict[str, Any]:
        messages = request.messages
        if self.fold_system and messages[0]["role"] == "system":
            messages = fold_system(messages)
            self.folded += 1
        body = {"model": self.model, "messages": messages, "seed": request.seed}
        for name in ("temperature", "top_p", "max_tokens"):
            body[name] = getattr(request.sampling, name)
        return {
            name: value for name, value in (body | self.extra_body).items() if value is not None
        }


class VLLMEngine(InProcess):
    """``vllm.LLM`` with a seed for every response.

    Each response is a request of its own (vLLM computes their shared prompt once, through its
    prefix cache). vLLM promises the same text for the same seed only on the same version and
    hardware and with its batch-invariant mode. ``own`` goes to ``vllm.LLM``; its ``dtype`` auto is
    bfloat16 where the checkpoint is in float32.
    """

    def __init__(
        self, model: str, revision: str | None = None, trust_remote_code: bool = False, **own: Any
    ) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise WRPOError("vllm is not installed; install the extra `gpu`") from error
        self.renderer = Renderer(load_tokenizer(model, revision, trust_remote_code))
        own |= {"trust_remote_code": trust_remote_code, "enable_prefix_caching": True}
        self.llm = LLM(model=model, revision=revision, tokenizer_revision=revision, **own)
        self.context = self.llm.llm_engine.model_config.max_model_len

    def _generate(self, rendered: list[tuple[Request, list[int]]]) -> Iterator[Response]:
        from vllm import SamplingParams

        names = ("temperature", "top_p", "max_tokens")
        prompts = [{"prompt_token_ids": ids} for _, ids in rendered]
        params = [
            SamplingParams(seed=r.seed, **{name: getattr(r.sampling, name) for name in names})
            for r, _ in rendered
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False) if prompts else []
        for (request, _), output in zip(rendered, outputs, strict=True):
            said = output.outputs[0]
            n_tokens, reason = len(said.token_ids), str(said.finish_reason)
            yield Response(request.key, request.sample, said.text, n_tokens, reason, request.seed)
