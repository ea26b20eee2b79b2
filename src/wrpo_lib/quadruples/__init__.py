"""Quadruples (x, y_ws, y_wt, y_l): schema, pairing, published forms, prompts."""
# ruff: noqa: F401 (names for readers of the book and its notebooks)

from wrpo_lib.chat import render
from wrpo_lib.quadruples.convert import from_official, read_prompts, to_official
from wrpo_lib.quadruples.pair import (
    Pairing,
    ResponseTable,
    best,
    build_quadruples,
    build_rows,
    draw_split,
    read_responses,
    write_pairs,
)
from wrpo_lib.quadruples.schema import validate_quadruples
