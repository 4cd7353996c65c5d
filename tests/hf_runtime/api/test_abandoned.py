"""Promise: requests whose clients have left produce no noise in the log."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ModelNotReady, Overloaded
from hf_runtime.rpc.messages import ModelState
from tests.hf_runtime.api.openai_server import ScriptedClient, app

PREDICT = ("/v1/models/writer:predict", {"instances": ["a", "b", "c"]})
STREAM = ("/v1/models/writer:predict", {"instances": ["a", "b", "c"], "parameters": {"stream": True}})
COMPLETION = ("/openai/v1/completions", {"model": "writer", "prompt": ["a", "b", "c"]})
COMPLETION_STREAM = ("/openai/v1/completions", {"model": "writer", "prompt": ["a", "b", "c"], "stream": True})
GENERATE = ("/v2/models/writer/generate", {"text_input": "a"})
LOAD: tuple[str, Any] = ("/v2/repository/models/writer/load", {})
ROUTES = [PREDICT, STREAM, COMPLETION, COMPLETION_STREAM, GENERATE]


class _Writer(ScriptedClient):
    """Model whose items and loading fail once the client has left, or immediately."""

    def __init__(self) -> None:
        super().__init__("writer", ModelState("ready"))
        self.left = asyncio.Event()

    async def load(self) -> None:
        await self.left.wait()
        raise ModelNotReady("it could not be loaded")


def _logged_by_asyncio(
    path: str,
    body: Any,
    script: Callable[[int], Any],
    leave: str | None,
    caplog: pytest.LogCaptureFixture,
    **settings: Any,
) -> list[str]:
    """Send a request and return the messages that asyncio logs.

    Args:
        leave: time at which its client leaves: `early`, `broken` if the server fails to notice it; None if it waits.
    """

    async def scenario() -> None:
        writer = _Writer()
        writer.script = script
        first = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            if first:
                return first.pop()
            if leave is None:
                await asyncio.Event().wait()
            for _ in range(5):  # until all items are submitted
                await asyncio.sleep(0)
            writer.left.set()
            if leave == "broken":
                raise ConnectionResetError("the connection broke")
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        scope = {
            "type": "http", "method": "POST", "path": path, "root_path": "", "headers": [], "query_string": b"",
        }  # fmt: skip
        served: Callable[..., Awaitable[None]] = app([writer], MODEL_MANAGEMENT=True, **settings)
        await asyncio.wait_for(served(scope, receive, send), 30)
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(scenario())
    gc.collect()
    return [record.getMessage() for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("leave", ["early", "broken"])
@pytest.mark.parametrize(("path", "body"), [*ROUTES, LOAD], ids=str)
def test_a_client_that_leaves_causes_no_noise(
    path: str, body: Any, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert _logged_by_asyncio(path, body, lambda _: None, leave, caplog) == []


@pytest.mark.parametrize(("path", "body"), [*ROUTES, LOAD], ids=str)
def test_a_request_that_times_out_causes_no_noise(path: str, body: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert _logged_by_asyncio(path, body, lambda _: None, None, caplog, REQUEST_TIMEOUT=0.01) == []


@pytest.mark.parametrize("leave", ["early", None])
@pytest.mark.parametrize("others", [None, InferenceFailed("it fails too"), Overloaded("full", retry_after=1)], ids=str)
@pytest.mark.parametrize(("path", "body"), ROUTES, ids=str)
def test_items_that_fail_with_others_cause_no_noise(
    path: str, body: Any, others: Any, leave: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    said = _logged_by_asyncio(
        path, body, lambda index: InvalidRequest("wrong") if index == 0 else others, leave, caplog
    )
    assert said == []


@pytest.mark.parametrize(("path", "body"), ROUTES[:4], ids=str)
def test_items_that_failed_before_another_is_refused_cause_no_noise(
    path: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def script(index: int) -> Any:
        if index == 2:
            raise Overloaded("full", retry_after=1)
        return InferenceFailed("it fails")

    assert _logged_by_asyncio(path, body, script, None, caplog) == []


def test_these_tests_detect_noise(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("nobody asks"))

    asyncio.run(scenario())
    gc.collect()
    assert "never retrieved" in caplog.text
