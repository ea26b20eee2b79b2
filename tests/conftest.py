"""Fixtures every test may use."""

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import commandline

from wrpo_lib.errors import WRPOError
from wrpo_lib.models import packaged_weights

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection, which every training run asks for."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those that wait for vLLM and Ray to start: last, they would leave a worker idle."""
    items.sort(key=lambda item: item.path.stem not in ("test_vllm", "test_cluster"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that lies beside the project (published outputs, an oracle run)."""
    path = Path(os.environ.get("WRPO_SHARED", ROOT.parent / "shared"))
    if not (path / "oracle").is_dir():
        pytest.skip(f"needs the shared test data at {path} (set WRPO_SHARED to where it lies)")
    return path


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The weights of SmolLM2-135M-Instruct, from the installed package."""
    try:
        return packaged_weights()
    except WRPOError as error:
        pytest.skip(f"needs SmolLM2 ({error}; make test installs it)")


@pytest.fixture
def wrpo(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit status, stdout and stderr of ``wrpo ...``."""
    return partial(commandline.wrpo, capsys)
