"""Exercises of the book: a reader's answer held against the right one."""

import math


def check(answer: float | bool | str | None, right: float | bool | str, why: str = "") -> str:
    """Whether ``answer`` is ``right``, numbers to 1 %; if not, ``why`` says what to think of;
    ``None`` is an exercise not done yet."""
    if answer is None:
        return "No answer yet."
    if isinstance(answer, (bool, str)) or isinstance(right, (bool, str)):
        good = answer == right
    else:
        good = math.isclose(answer, right, rel_tol=0.01, abs_tol=1e-9)
    shown = f"{answer:.4g}" if isinstance(answer, float) else answer
    return f"Right: {shown}." if good else f"Not yet: {shown}. {why}".rstrip()
