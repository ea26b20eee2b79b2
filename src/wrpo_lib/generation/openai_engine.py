"""Sampling from an OpenAI-compatible server: vLLM, llama.cpp, ``transformers serve``, paid ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wrpo_lib.chat import fold_system
from wrpo_lib.generation.request import Request, Response
from wrpo_lib.server import Server, complete


@dataclass
class ServerEngine:
    """One HTTP request per response, so that each has its own seed and a lost one costs little.

    ``fold`` puts a system turn into the user turn, for served models whose template has none.
    ``extra`` is merged into every request's body; None as a value removes a field, for servers
    that refuse one. Whether a server honours ``seed``, and which sampling defaults it adds (vLLM
    takes top-k from the model's generation configuration), is up to the server.
    """

    server: Server
    model: str
    fold: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    folded: int = 0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses as they arrive."""
        waiting: dict[str, tuple[str, int, int]] = {}

        def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
            for request in requests:
                for sample in request.wanted:
                    seed = request.sampling.seed_of(request.key, sample)
                    waiting[f"{sample}:{request.key}"] = (request.key, sample, seed)
                    yield f"{sample}:{request.key}", self._body(request, seed)

        for reply in complete(self.server, bodies()):
            yield _response(reply.body or {}, reply.error, *waiting.pop(reply.key))

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        messages, sampling = request.messages, request.sampling
        if self.fold and messages[0]["role"] == "system":
            messages = fold_system(messages)
            self.folded += 1
        names = ("temperature", "top_p", "max_tokens")
        body = {"model": self.model, "messages": messages, "seed": seed}
        body |= {name: getattr(sampling, name) for name in names} | self.extra
        return {name: value for name, value in body.items() if value is not None}


def _response(
    body: dict[str, Any], error: str | None, key: str, sample: int, seed: int
) -> Response:
    choice: dict[str, Any] = body["choices"][0] if error is None else {"finish_reason": "error"}
    text = (choice.get("message") or {}).get("content") or ""
    tokens = (body.get("usage") or {}).get("completion_tokens")
    return Response(key, sample, text, tokens, choice.get("finish_reason") or "stop", seed, error)
