"""Rendering under the chat templates in use, and the official code's faults made impossible."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from wrpo_lib.chat import Renderer, Truncation, render, render_text
from wrpo_lib.errors import WRPOError

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<|begin|>{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
GEMMA = (
    "{% for m in messages %}"
    "{% if m.role in ('system', 'tool') %}{{ raise_exception('no such role') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL = sorted({*re.findall(r"<[|\w]+>", CHATML + LLAMA3 + GEMMA), "<eos>"})
PROMPT = [{"role": "user", "content": "say it"}]


def tokenizer(template: str | None, eos: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: every text has tokens, and special tokens stay whole."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, chat_template=template)


CASES = {
    "chatml": (CHATML, "<|im_end|>", "<|im_end|>"),
    "llama3": (LLAMA3, "<eos>", "<|eot_id|>"),  # the end of a turn is not the eos
    "gemma": (GEMMA, "<eos>", "<end_of_turn>"),
    "bare": (BARE, "<eos>", "<eos>"),  # the template writes no end token
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[PreTrainedTokenizerFast, str]:
    template, eos, end = CASES[request.param]
    return tokenizer(template, eos), end


def test_each_response_is_its_text_and_one_end_token(case: Any) -> None:
    """And prompt and response join to what the template writes."""
    tok, end = case
    start, texts = render_text(tok, PROMPT, ["fine", f"done{end}", f"twice{end}{end}"])
    assert texts == [f"fine{end}", f"done{end}", f"twice{end}"]
    assert render_text(tok, PROMPT, ["fine "])[1] == ["fine " + end]  # as it was sampled
    turns = [*PROMPT, {"role": "assistant", "content": "fine"}]
    whole = tok.apply_chat_template(turns, tokenize=False)
    assert start == tok.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    assert start + texts[0] == whole.rstrip("\n").removesuffix(end) + end
    row = render(tok, PROMPT, ["fine"])
    assert row.response_ids[0].count(tok.convert_tokens_to_ids(end)) == 1
    assert row.response_ids[0][-1] == tok.convert_tokens_to_ids(end)


def test_no_default_system_turn_inside_a_response() -> None:
    tok = tokenizer(CHATML, "<|im_end|>")
    lone = tok.apply_chat_template([{"role": "assistant", "content": "fine"}], tokenize=False)
    assert "You are helpful" in lone  # the official way: a system block inside every response
    start, (text,) = render_text(tok, PROMPT, ["fine"])
    assert "You are helpful" in start
    assert text == "fine<|im_end|>"


def test_a_short_response_is_never_cut_for_a_long_one() -> None:
    tok, counts = tokenizer(CHATML, "<|im_end|>"), Truncation()
    row = render(tok, PROMPT, ["a" * 10, "b" * 400], max_length=200, max_prompt_length=150)
    assert row.response_truncated == [False, True]
    assert len(row.response_ids[0]) == 11
    assert row.response_ids[0][-1] == tok.convert_tokens_to_ids("<|im_end|>")
    assert len(row.prompt_ids) + len(row.response_ids[1]) == 200
    assert len(row.response_ids[1]) > 200 - 150  # where the official code cuts all three
    counts.add(row, ["target_chosen", "rejected"])
    assert counts.report() == "truncated in 1 rows: rejected 1"


def test_the_prompt_is_cut_first_and_from_the_left() -> None:
    tok = tokenizer(CHATML, "<|im_end|>")
    long = [{"role": "user", "content": "x" * 300 + "end?"}]
    whole = render(tok, long, ["fine"])
    row = render(tok, long, ["fine"], max_length=120, max_prompt_length=100)
    assert row.prompt_truncated
    assert row.prompt_ids == whole.prompt_ids[-100:]
    assert row.response_ids == whole.response_ids
    assert not render(tok, long, ["fine"], max_length=1000, max_prompt_length=100).prompt_truncated


def test_training_renders_what_was_sampled_from(case: Any) -> None:
    """A system turn that the template refuses is folded for both, and counted by both."""
    tok, _ = case
    prompt = [{"role": "system", "content": "be brief"}, *PROMPT]
    renderer, counts = Renderer(tok), Truncation()
    row = render(tok, prompt, ["fine"])
    counts.add(row, ["rejected"])
    assert row.prompt_ids == renderer.ids(prompt)
    assert counts["folded"] == renderer.folded == (tok.chat_template == GEMMA)
    assert ("the system turn of 1 prompts" in counts.report()) == bool(renderer.folded)


def test_what_cannot_be_rendered_is_one_sentence() -> None:
    with pytest.raises(WRPOError, match=r"no chat template; set tokenizer\.chat_template"):
        render(tokenizer(None, "<eos>"), PROMPT, ["fine"])
    with pytest.raises(WRPOError, match="cannot render the roles"):
        render(tokenizer(GEMMA, "<eos>"), [{"role": "tool", "content": "s"}, *PROMPT], ["fine"])
    with pytest.raises(WRPOError, match="max_prompt_length"):
        render(tokenizer(CHATML, "<|im_end|>"), PROMPT, ["fine" * 50], 30, 30)


@pytest.mark.parametrize("name", ["short", "ordinary"])
def test_the_oracle_token_counts(shared: Path, smollm2_file: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    with gzip.open(shared / "oracle" / f"{name}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        made = render(tok, row["prompt"], [row[k] for k in ("y_ws", "y_wt", "y_l")])
        counts = [len(made.prompt_ids), *map(len, made.response_ids)]
        assert counts == [row[f"n_{k}"] for k in ("prompt", "ws", "wt", "l")]
    start, _ = render_text(tok, [{"role": "user", "content": rows[0]["instruction"]}], ["fine"])
    assert start == rows[0]["prompt"]
