"""Layers and attention are held to torch's with the products of either library."""

from __future__ import annotations

import pytest

from wrpo_lib.cpu import products


@pytest.fixture(params=["onednn", "torch"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that multiplies, whatever the make of this machine's processor."""
    name: str = request.param
    if name == "onednn" and not products.AVAILABLE:
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(products, "ONEDNN", name == "onednn")
    return name
