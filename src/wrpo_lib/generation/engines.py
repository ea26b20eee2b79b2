"""Engines that answer alike: a model in this process, or one on a server."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from wrpo_lib.chat import Renderer
from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.generation.local import InProcess, Rendered, TransformersEngine
from wrpo_lib.generation.stage import Request, Response
from wrpo_lib.models import load_causal_lm, load_tokenizer
from wrpo_lib.replies import read_reply
from wrpo_lib.server import Server, complete

SAMPLED = ("temperature", "top_p", "max_tokens")


@dataclass
class ServerEngine:
    """One HTTP request per response, so that each has its own seed and a lost one costs little.

    ``extra_body`` is merged into every request; None as a value removes a field.
    """

    server: Server
    model: str
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses as they arrive."""
        for request, body, error in complete(self.server, ((r, self._body(r)) for r in requests)):
            asked, seed = (request.key, request.sample), request.seed
            try:
                if body is None:
                    raise WRPOError(error)
                text, thought, reason, n_tokens = read_reply(body)
                yield Response(*asked, text, n_tokens, reason, seed, thought=thought)
            except WRPOError as failure:
                yield Response(*asked, "", None, "error", seed, str(failure))

    def _body(self, request: Request) -> dict[str, Any]:
        body = {"model": self.model, "messages": request.messages, "seed": request.seed}
        body |= {name: getattr(request.sampling, name) for name in SAMPLED}
        return {k: v for k, v in (body | self.extra_body).items() if v is not None}


class VLLMEngine(InProcess):
    """``vllm.LLM`` with a seed for every response.

    vLLM promises the same text for the same seed only on the same version and hardware and in its
    batch-invariant mode. ``own`` goes to ``vllm.LLM``, whose ``dtype`` auto makes float32 bfloat16.
    """

    def __init__(
        self, model: str, revision: str | None = None, trust_remote_code: bool = False, **own: Any
    ) -> None:
        hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        own = {"load_format": "safetensors", "enable_prefix_caching": True, **own, **hub}
        with explained("vLLM did not start", "install the extra `gpu`, or see its own words above"):
            from vllm import LLM

            self.renderer = Renderer(load_tokenizer(model, **hub))
            self.llm = LLM(model, tokenizer_revision=revision, **own)
        self.context = self.llm.llm_engine.model_config.max_model_len

    def _generate(self, rendered: Rendered) -> Iterator[Response]:
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": ids} for _, ids in rendered]
        params = [
            SamplingParams(seed=r.seed, **{name: getattr(r.sampling, name) for name in SAMPLED})
            for r, _ in rendered
        ]
        with explained("vLLM stopped", "finished rows are kept; run again to go on"):
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
        for (request, _), output in zip(rendered, outputs, strict=True):
            said = output.outputs[0]
            n_tokens, reason = len(said.token_ids), str(said.finish_reason)
            yield Response(request.key, request.sample, said.text, n_tokens, reason, request.seed)


def make_engine(
    kind: str, model: str, options: dict[str, Any] | None = None, **hub: Any
) -> TransformersEngine | VLLMEngine | ServerEngine:
    """An engine by its kind: ``transformers``, ``vllm`` or ``server``.

    ``options`` are the engine's own: ``batch_tokens``; anything that ``vllm.LLM`` takes; a
    ``server``, fields to change of it, ``extra_body``. ``hub``: ``revision``,
    ``trust_remote_code``, ``dtype``.
    """
    own = dict(options or {})
    with explained(f"cannot make the {kind} engine", "correct its options"):
        if kind == "vllm":
            return VLLMEngine(model, **hub, **own)
        if kind == "transformers":
            return TransformersEngine(*load_causal_lm(model, **hub), **own)
        if kind != "server":
            raise WRPOError(f"unknown engine {kind!r}; choose transformers, vllm or server")
        server, extra_body = own.pop("server"), own.pop("extra_body", {})
        return ServerEngine(replace(server, **own), model, extra_body)
