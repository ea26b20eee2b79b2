"""The one error a user is meant to read."""

from __future__ import annotations


class WRPOError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence alone and exits with status 2; notebooks and scripts
    see an ordinary ``ValueError``.
    """
