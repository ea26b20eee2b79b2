"""The one error a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class WRPOError(ValueError):
    """Bad input, said in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence alone and exits with status 2; notebooks and scripts
    see an ordinary ``ValueError``.
    """


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Whatever a library raises inside as one sentence: ``what`` (its first line); ``remedy``."""
    try:
        yield
    except WRPOError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WRPOError(f"{what} ({reason}); {remedy}") from error
