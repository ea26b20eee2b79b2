"""Quadruples (x, y_ws, y_wt, y_l): schema, files, rendering, building, the official format."""

from wrpo_lib.chat import Rendered, Truncation, render, render_text
from wrpo_lib.io import iter_rows, read_rows, write_rows
from wrpo_lib.quadruples.build import PairingReport, best, build_quadruples, build_rows, worst
from wrpo_lib.quadruples.choose import TIE_RULE, Pairing
from wrpo_lib.quadruples.official import from_official, is_official, to_official
from wrpo_lib.quadruples.responses import ResponseTable, read_responses, response_problems
from wrpo_lib.quadruples.schema import (
    Problem,
    count_warnings,
    read_quadruples,
    validate_quadruples,
    write_quadruples,
)
from wrpo_lib.quadruples.split import Split, split_prompts
from wrpo_lib.quadruples.write import write_pairs

__all__ = [
    "TIE_RULE",
    "Pairing",
    "PairingReport",
    "Problem",
    "Rendered",
    "ResponseTable",
    "Split",
    "Truncation",
    "best",
    "build_quadruples",
    "build_rows",
    "count_warnings",
    "from_official",
    "is_official",
    "iter_rows",
    "read_quadruples",
    "read_responses",
    "read_rows",
    "render",
    "render_text",
    "response_problems",
    "split_prompts",
    "to_official",
    "validate_quadruples",
    "worst",
    "write_pairs",
    "write_quadruples",
    "write_rows",
]
