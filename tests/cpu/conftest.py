"""Layers and attention are held to torch's with compiled code and without, by either library."""

from __future__ import annotations

import pytest

from wrpo_lib.cpu import compiled, products


@pytest.fixture(params=["compiled", "onednn", "torch"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What computes, whatever this machine has: compiled code, or the library that multiplies."""
    name: str = request.param
    if name == "compiled":
        if compiled.loaded() is None:
            pytest.skip("there is no GCC here to compile with")
        return name
    monkeypatch.setattr(compiled, "loaded", lambda: None)
    if name == "onednn" and not products.AVAILABLE:
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(products, "ONEDNN", name == "onednn")
    return name
