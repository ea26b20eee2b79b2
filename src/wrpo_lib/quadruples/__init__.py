"""Quadruples (x, y_ws, y_wt, y_l): schema, files, rendering, building, the official format."""

from wrpo_lib.quadruples.build import best, build_quadruples, split_prompts, worst
from wrpo_lib.quadruples.official import from_official, is_official, to_official
from wrpo_lib.quadruples.rendering import Rendered, Truncation, render, render_text
from wrpo_lib.quadruples.schema import (
    Problem,
    count_warnings,
    read_quadruples,
    read_rows,
    validate_quadruples,
    write_quadruples,
    write_rows,
)

__all__ = [
    "Problem",
    "Rendered",
    "Truncation",
    "best",
    "build_quadruples",
    "count_warnings",
    "from_official",
    "is_official",
    "read_quadruples",
    "read_rows",
    "render",
    "render_text",
    "split_prompts",
    "to_official",
    "validate_quadruples",
    "worst",
    "write_quadruples",
    "write_rows",
]
