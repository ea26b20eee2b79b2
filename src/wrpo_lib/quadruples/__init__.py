"""Quadruples (x, y_ws, y_wt, y_l): schema, pairing, building, formats, split, overlap."""

from wrpo_lib.chat import render, render_text
from wrpo_lib.quadruples.build import PairingReport, build_quadruples, build_rows, write_pairs
from wrpo_lib.quadruples.convert import from_official, to_official
from wrpo_lib.quadruples.pair import Pairing, best, worst
from wrpo_lib.quadruples.responses import ResponseTable, read_responses
from wrpo_lib.quadruples.schema import (
    Problem,
    read_quadruples,
    row_problems,
    validate_quadruples,
    write_quadruples,
)
from wrpo_lib.quadruples.split import Split, make_split, read_prompts, read_split

__all__ = [
    "Pairing",
    "PairingReport",
    "Problem",
    "ResponseTable",
    "Split",
    "best",
    "build_quadruples",
    "build_rows",
    "from_official",
    "make_split",
    "read_prompts",
    "read_quadruples",
    "read_responses",
    "read_split",
    "render",
    "render_text",
    "row_problems",
    "to_official",
    "validate_quadruples",
    "worst",
    "write_pairs",
    "write_quadruples",
]
