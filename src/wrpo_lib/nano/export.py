"""Vocabularies of the nano models, and members of a stack as transformers checkpoints."""

import re
import string
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.models import TEMPLATE
from wrpo_lib.nano.batch import END, EPS, PAD, THETA, Params, Shape
from wrpo_lib.nano.world import LETTERS, OWN_WORDINGS, SKILLS, SOURCE_WORDINGS

PATTERNS = {
    "phrase": "[a-z]+ |.",  # a word with the space behind it
    "word": "[a-z]+|.",
    "syllable": "[a-z]{1,2}|.",
    "character": ".",
}
"""Kind of vocabulary -> what its tokens are; what no wording has is spelt in characters."""


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the testbed's words that can spell any other; the same in every world.

    Its chat template renders a prompt as ``<user>blend BDAC<assistant>``.
    """
    texts = [f"{skill} " for skill in SKILLS]
    texts += [wording.replace("{}", "") for wording in (*OWN_WORDINGS, *SOURCE_WORDINGS)]
    words = [token for text in texts for token in re.findall(PATTERNS[kind], text)]
    characters = [*LETTERS, *string.ascii_lowercase, *" .;!?"]
    names = dict.fromkeys(["<pad>", "<end>", "<user>", "<assistant>", *words, *characters])
    made = Tokenizer(models.WordLevel({t: k for k, t in enumerate(names)}, unk_token="<pad>"))
    known = sorted({re.escape(w) for w in words}, key=lambda w: (-len(w), w))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*known, "."])), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def prompt_ids(tok: PreTrainedTokenizerFast, prompts: list[str]) -> Tensor:
    """Rendered prompts (N, T); all prompts of the testbed have one length in any vocabulary."""
    messages = [[{"role": "user", "content": text}] for text in prompts]
    rendered = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return torch.tensor(tok(rendered, add_special_tokens=False)["input_ids"])


def response_ids(tok: PreTrainedTokenizerFast, responses: list[str], length: int) -> Tensor:
    """Responses with their end token (N, length), padded, or cut to ``length``."""
    rows = tok(responses, add_special_tokens=False)["input_ids"]
    found = torch.full((len(rows), length), PAD)
    for row, ids in zip(found, rows, strict=True):
        ids = [*ids, END][:length]
        row[: len(ids)] = torch.tensor(ids)
    return found


def response_texts(tok: PreTrainedTokenizerFast, ids: Tensor) -> list[str]:
    """Texts of sampled responses (N, L), up to the end token."""
    return tok.batch_decode(ids, skip_special_tokens=True)


def export(
    params: Params, shape: Shape, kind: str, member: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """One member of a stack as a transformers model with its tokenizer; logits agree to 1e-5."""
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=256,
        rms_norm_eps=EPS,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config).eval()
    state = {name: value[member].detach().clone() for name, value in params.items()}
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    return model, tokenizer(kind)
