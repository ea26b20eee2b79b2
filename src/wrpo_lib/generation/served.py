"""Sampling from an OpenAI-compatible server: vLLM, llama.cpp, ``transformers serve``, paid ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wrpo_lib.chat import fold_system
from wrpo_lib.generation.request import Request, Response
from wrpo_lib.server import Reply, Server, complete


@dataclass
class ServedEngine:
    """One request a response, so that each has its own seed and a lost one costs little.

    ``fold`` puts a system turn into the user turn, for served models whose template has none (the
    server's template cannot be seen from here). ``extra`` is merged into every request's body;
    None as a value removes a field, for servers that refuse one. Whether a server honours ``seed``
    and adds sampling defaults of its own (vLLM takes top-k and others from the model's generation
    configuration) is up to the server.
    """

    server: Server
    model: str
    fold: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    stop: Callable[[], bool] | None = None
    folded: int = 0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses as they arrive."""
        waiting: dict[str, tuple[str, int, int]] = {}

        def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
            for request in requests:
                for sample in request.wanted:
                    name = f"{sample}:{request.key}"
                    seed = request.sampling.seed_of(request.key, sample)
                    waiting[name] = (request.key, sample, seed)
                    yield name, self._body(request, seed)

        for reply in complete(self.server, bodies(), stop=self.stop):
            yield _response(reply, *waiting.pop(reply.key))

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        messages = request.messages
        if self.fold and messages[0]["role"] == "system":
            messages = fold_system(messages)
            self.folded += 1
        sampling = request.sampling
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}


def _response(reply: Reply, key: str, sample: int, seed: int) -> Response:
    if reply.body is None:
        return Response(key, sample, "", None, "error", seed, reply.error)
    choice = reply.body["choices"][0]
    text = (choice.get("message") or {}).get("content") or ""
    tokens = (reply.body.get("usage") or {}).get("completion_tokens")
    return Response(key, sample, text, tokens, choice.get("finish_reason") or "stop", seed)
