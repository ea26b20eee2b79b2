"""The one error a user is meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class WRPOError(ValueError):
    """Bad input in one sentence, which the command line prints alone: what, where, what to do."""


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Re-raise any exception as a :class:`WRPOError`: ``what`` (its first line); ``remedy``."""
    try:
        yield
    except WRPOError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WRPOError(f"{what} ({reason}); {remedy}") from error
