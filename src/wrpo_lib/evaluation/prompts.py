"""Judge prompts: templates of chat messages, filled so that no answer can change them.

Upstream fills its templates one placeholder after the other, so an answer that holds a later
placeholder is filled too, and an answer that holds ``<|im_end|>`` ends the judge's turn. Here all
placeholders are filled in one pass, and control tokens inside texts are broken with an invisible
character, so that no tokenizer reads them as control tokens. Texts without them are sent
unchanged, and then the prompt equals upstream's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from wrpo_lib.errors import WRPOError

Message = dict[str, str]

BREAK = "\u200b"  # zero-width space
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# <|im_end|>, <|eot_id|>, DeepSeek's full-width bars, <s>, <start_of_turn>, [INST], <<SYS>>, ...
CONTROL = re.compile(
    r"<(?=[|\uff5c][^<>\n]{1,60}[|\uff5c]>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|start_of_image)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\])"
    r"|<(?=</?SYS>>)"
)
MARKER = re.compile(r"^\[[^\]\n]+\]$|^<\|[^>\n]+\|>$", re.MULTILINE)  # a template's own delimiters
CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A judge prompt: ``messages`` as (role, text) with ``{placeholders}`` in the texts."""

    name: str
    messages: tuple[tuple[str, str], ...]

    @property
    def sha256(self) -> str:
        """Hash of roles and texts: two prompts of one name are told apart by it."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()

    @property
    def placeholders(self) -> set[str]:
        """Names that :meth:`fill` needs."""
        return {name for _, text in self.messages for name in PLACEHOLDER.findall(text)}

    def fill(self, values: Mapping[str, str]) -> tuple[list[Message], int]:
        """The chat messages, and how many control tokens and delimiters were broken in ``values``.

        Every placeholder is filled once, in one pass; what stands inside a value stays text.
        """
        if missing := self.placeholders - set(values):
            raise WRPOError(
                f"template {self.name!r} needs {', '.join(sorted(missing))}, which the question "
                "or its answers lack; complete the file"
            )
        markers = {line for _, text in self.messages for line in MARKER.findall(text)}
        safe = {name: _harmless(values[name], markers) for name in self.placeholders}
        messages = [
            {"role": role, "content": PLACEHOLDER.sub(lambda m: safe[m.group(1)][0], text)}
            for role, text in self.messages
        ]
        return messages, sum(count for _, count in safe.values())


def _harmless(text: str, markers: set[str]) -> tuple[str, int]:
    """``text`` with its control tokens and copies of the template's delimiters broken."""
    text, count = CONTROL.subn(lambda m: m.group() + BREAK, text)
    for marker in markers:
        found = text.count(marker)
        text, count = text.replace(marker, marker[0] + BREAK + marker[1:]), count + found
    return text, count


def from_chatml(name: str, text: str) -> Template:
    """AlpacaEval's template file, ChatML with placeholders, contents stripped as upstream does."""
    messages = tuple((role, content.strip()) for role, content in CHATML.findall(text))
    if not messages:
        raise WRPOError(f"template {name!r} has no <|im_start|> block; give a ChatML file")
    return Template(name, messages)


def from_system_and_user(name: str, system: str, user: str) -> Template:
    """FastChat's and Arena-Hard's form: a system prompt and the text of the user turn."""
    return Template(name, (("system", system), ("user", user)))
