"""The official repository's row format (SLIT-AI/WRPO), in and out.

There, order carries the meaning: ``chosen`` is [source response, target response] and
``rejected`` is [target response], each a {role, content} message. Here, fields do.
"""

from __future__ import annotations

from typing import Any

from wrpo_lib.errors import WRPOError


def is_official(row: dict[str, Any]) -> bool:
    """Whether a row is in the official format."""
    return "chosen" in row and "source_chosen" not in row


def _texts(row: dict[str, Any], field: str, count: int, where: str) -> list[str]:
    messages = row.get(field)
    if not isinstance(messages, list) or len(messages) != count:
        raise WRPOError(
            f"{where}, field {field!r}: needs a list of {count} message(s); complete it"
        )
    texts = []
    for k, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise WRPOError(f"{where}, field {field!r}, message {k}: has no text content; add it")
        texts.append(message["content"])
    return texts


def from_official(row: dict[str, Any], where: str = "official row") -> dict[str, Any]:
    """An official row as a quadruple; ``where`` names it in errors. Other fields are kept."""
    source, target = _texts(row, "chosen", 2, where)
    (rejected,) = _texts(row, "rejected", 1, where)
    prompt = row.get("prompt")
    if isinstance(prompt, dict):
        prompt = [{"role": prompt.get("role"), "content": prompt.get("content")}]
    rest = {k: v for k, v in row.items() if k not in ("prompt_id", "prompt", "chosen", "rejected")}
    return {
        "prompt_id": row.get("prompt_id"),
        "prompt": prompt,
        "source_chosen": source,
        "target_chosen": target,
        "rejected": rejected,
        **rest,
    }


def to_official(row: dict[str, Any]) -> dict[str, Any]:
    """A quadruple as an official row; a one-message prompt becomes that message."""
    prompt = row["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]

    def said(name: str) -> dict[str, str]:
        return {"role": "assistant", "content": row[name]}

    known = ("prompt_id", "prompt", "source_chosen", "target_chosen", "rejected")
    rest = {k: v for k, v in row.items() if k not in known}
    return {
        "prompt_id": row["prompt_id"],
        "prompt": prompt,
        "chosen": [said("source_chosen"), said("target_chosen")],
        "rejected": [said("rejected")],
        **rest,
    }
