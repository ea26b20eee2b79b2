"""Quadruples (x, y_ws, y_wt, y_l): schema, pairing, published forms, prompts."""
# ruff: noqa: F401 (names for readers of the book and its notebooks)

from wrpo_lib.chat import render
from wrpo_lib.quadruples.convert import from_official, to_official
from wrpo_lib.quadruples.pair import Pairing, best, build_quadruples, build_rows, write_pairs
from wrpo_lib.quadruples.prompts import Split, make_split, read_prompts, read_split
from wrpo_lib.quadruples.responses import ResponseTable, read_responses
from wrpo_lib.quadruples.schema import read_quadruples, validate_quadruples
