"""What is trained is what was sampled, under TRL's stock templates and real tokenizers."""

import re
from pathlib import Path
from typing import Any

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wrpo_lib.chat import Renderer, Truncation, render
from wrpo_lib.errors import WRPOError

STOCK = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
CONTROL = r"<\|?[\w/]+\|?>|<｜[^｜]+｜>|\[/?[A-Za-z]+\]"
PROMPT = [{"role": "user", "content": "say it"}]
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LINES = (  # a line feed between content and end, and a second token after it
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n<|end|><|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TURNS = ["<|user|>", "<|assistant|>"]


def byte_level(template: str, special: list[str]) -> PreTrainedTokenizerFast:
    """Every text has tokens, special tokens stay whole, and some letters merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, "ĊĊ", "Ġf"])}
    core = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ"), ("Ġ", "f")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([*special, "<eos!>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos!>", bos_token="<eos!>", chat_template=template
    )


def metaspace(template: str, scheme: str) -> PreTrainedTokenizerFast:
    """SentencePiece's kind: a text of its own gets a space in front."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    text = ["say it [INST] [/INST] fine day assistant user |<>\n"] * 4
    special = ["<unk>", "<s>", "</s>"]
    core.train_from_iterator(text, trainers.BpeTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", chat_template=template
    )


def by_template(tokenizer: Any, response: str) -> list[int]:
    """TRL's ids: the whole conversation rendered, then tokenised."""
    said = [*PROMPT, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(said, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_ids_under_the_stock_templates_are_trls() -> None:
    """Up to the end token, behind which templates may go on; others are refused."""
    same, refused = set(), {}
    for path in STOCK:
        template = path.read_text(encoding="utf-8")
        tokenizer = byte_level(template, sorted(set(re.findall(CONTROL, template)) - {"<think>"}))
        try:
            made = render(tokenizer, PROMPT, ["fine day"])
        except WRPOError as error:
            refused[path.stem] = str(error)
            continue
        assert Renderer(tokenizer).ids(PROMPT) == made.prompt_ids
        ours = made.prompt_ids + made.response_ids[0]
        assert by_template(tokenizer, "fine day")[: len(ours)] == ours, path.stem
        # the official code puts qwen2_5's default system turn into every response
        assert tokenizer.decode(made.response_ids[0]).startswith("fine day"), path.stem
        same.add(path.stem)
    assert same >= {"llama3", "llama3_2", "qwen2_5", "gemma3", "phi3", "lfm2", "cohere"}
    why = re.compile("differently|cannot render|before a response")
    assert {name for name, error in refused.items() if not why.search(error)} == set()
    assert len(same) > len(STOCK) / 2


@pytest.mark.parametrize(("template", "scheme"), [(MISTRAL, "first"), (ZEPHYR, "always")])
def test_no_spurious_space_before_a_response(template: str, scheme: str) -> None:
    tokenizer = metaspace(template, scheme)
    made = render(tokenizer, PROMPT, ["fine day", "day"])
    for response, ids in zip(("fine day", "day"), made.response_ids, strict=True):
        whole = by_template(tokenizer, response)
        assert (made.prompt_ids + ids) == whole[: len(made.prompt_ids) + len(ids)]
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1


def test_a_leading_line_feed_stays_a_token_of_its_own() -> None:
    """Where we differ from TRL: sampling started behind the prompt's own line feed."""
    tokenizer = byte_level(ZEPHYR, TURNS)
    made = render(tokenizer, PROMPT, ["\nfine"])
    assert tokenizer.decode(made.response_ids[0]) == "\nfine<eos!>"
    assert made.prompt_ids + made.response_ids[0] != by_template(tokenizer, "\nfine")


@pytest.mark.parametrize("text", ["fine", "fine<|end|>", "fine<|end|>\n", "fine<|end|>\n<|end|> "])
def test_exactly_one_end_and_nothing_dropped(text: str) -> None:
    tokenizer = byte_level(LINES, [*TURNS, "<|end|>", "<|stop|>"])
    made = render(tokenizer, PROMPT, [text])
    assert tokenizer.decode(made.response_ids[0]) == "fine\n<|end|>"


def test_text_is_one_user_turn_unless_it_is_rendered() -> None:
    tokenizer = byte_level(ZEPHYR, TURNS)
    whole = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    ids = [render(tokenizer, prompt, ["fine"]).prompt_ids for prompt in (PROMPT, "say it", whole)]
    assert ids[0] == ids[1] == ids[2]


def test_the_prompt_is_cut_first_then_each_response_on_its_own() -> None:
    tokenizer, counts = byte_level(ZEPHYR, TURNS), Truncation()
    prompt, said = [{"role": "user", "content": "x" * 300}], ["a" * 10, "b" * 400]
    whole, row = render(tokenizer, prompt, said), render(tokenizer, prompt, said, 200, 150)
    assert row.prompt_ids == whole.prompt_ids[-150:]
    assert row.response_ids == [whole.response_ids[0], whole.response_ids[1][:50]]
    counts.add(row, ["target_chosen", "rejected"])
    assert counts.report() == "truncated in 1 rows: prompt 1, rejected 1"
    assert not render(tokenizer, prompt, said[:1], 1000, 100).cut[0]
    with pytest.raises(WRPOError, match="max_prompt_length"):
        render(tokenizer, prompt, said, 30, 30)


@pytest.mark.parametrize("system", ["", "{{ raise_exception('no system turn') }}"])
def test_a_system_turn_is_folded_alike_for_sampling_and_training(system: str) -> None:
    skip = "{% for m in messages %}{% if m.role == 'system' %}" + system + "{% else %}"
    template = ZEPHYR.replace("{% for m in messages %}", skip).replace(
        "{% end", "{% endif %}{% end", 1
    )
    tokenizer = byte_level(template, TURNS)
    prompt = [{"role": "system", "content": "be brief"}, *PROMPT]
    renderer, row = Renderer(tokenizer), render(tokenizer, prompt, ["fine"])
    assert row.prompt_ids == renderer.ids(prompt)
    assert row.folded == renderer.folded == 1
    assert "be brief\n\nsay it" in tokenizer.decode(row.prompt_ids)
