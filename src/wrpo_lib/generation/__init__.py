"""Sampling responses. Only the in-process transformers engine is here so far."""

from wrpo_lib.generation.sample import sample

__all__ = ["sample"]
