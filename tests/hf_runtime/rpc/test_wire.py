"""Promise: the wire loses and mixes up no items, and reports errors and lost peers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from hf_runtime.api.http.refusal import refuse
from hf_runtime.contract.errors import (
    InferenceFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    RequestTooLarge,
    Unauthenticated,
)
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import RequestContext, current_request_contexts, request_context
from hf_runtime.contract.tokenization import Detokenize, TokenizeChat, TokenizerRequest, TokenizeText
from hf_runtime.rpc import ITEMS_PATH
from hf_runtime.rpc.client import Answer, RunnerClient
from hf_runtime.rpc.messages import ModelState
from hf_runtime.rpc.outbox import MAX_FRAME
from hf_runtime.rpc.server import serve_connection

SECRET = "what a client wrote"


def _deep(levels: int) -> list[Any]:
    deep: list[Any] = [SECRET]
    for _ in range(levels):
        deep = [deep]
    return deep


#: Answers that cannot be sent; the last one can be sent and cannot be read.
ANSWERS: dict[str, Any] = {
    "integer": [SECRET, 2**64], "negative": {SECRET: -(2**63) - 1}, "half": SECRET + "\ud83d",
    "key": {"\ud83d": SECRET}, "object": [SECRET, object()], "objects": np.array([object(), SECRET], dtype=object),
    "complex": np.array([1j]), "record": np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
    "date": np.array(["2020-01-01"], "M8[D]"), "deep": _deep(5000), "keys": {SECRET: {1.5: object()}},
    "extension": msgspec.msgpack.Ext(9, SECRET.encode()),
}  # fmt: skip


class ScriptedHost:
    """Host that answers as the instance says, or leaves the item open."""

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Future[Any]] = {}
        self.opened = asyncio.Condition()
        self.state = ModelState("ready")
        self.changed = asyncio.Event()

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        request_context: RequestContext | None = None,
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        match instance:
            case "full":
                raise Overloaded("full", retry_after=7)
            case "wrong":
                future.set_exception(InvalidRequest("wrong"))
            case "bug":
                future.set_exception(RuntimeError("internal detail"))
            case "broken":
                raise RuntimeError("internal detail")
            case {"answer": name}:
                future.set_result(ANSWERS[name])
            case {"error": text}:
                future.set_exception(InvalidRequest(bytes(text).decode("utf-8", "surrogateescape")))
            case {"stream": deltas}:
                assert listener is not None
                listener.on_accepted()
                for delta in deltas:
                    listener.on_delta(ANSWERS.get(delta, delta))
                future.set_result(None)
            case "origin":
                future.set_result(request_context.request_id if request_context is not None else None)
            case {"open": name}:
                self.open[name] = future
                asyncio.get_running_loop().create_task(self._notify())
            case _:
                future.set_result({"echo": instance, **parameters})
        return future

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if request == TokenizeText("full"):
            raise Overloaded("full", retry_after=7)
        if request == TokenizeText("wrong"):
            future.set_exception(InvalidRequest("wrong"))
        else:
            future.set_result({"tokens": [1], "token_strs": None, "text": repr(request), "max_length": None})
        return future

    def load(self) -> asyncio.Future[None]:
        return self._become(ModelState("ready"))

    def unload(self) -> asyncio.Future[None]:
        return self._become(ModelState("unloaded", "unloaded"))

    def _become(self, state: ModelState) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.state = state
        self.changed.set()
        future.set_result(None)
        return future

    async def _notify(self) -> None:
        async with self.opened:
            self.opened.notify_all()

    async def wait_open(self, name: str) -> asyncio.Future[Any]:
        async with self.opened:
            await asyncio.wait_for(self.opened.wait_for(lambda: name in self.open), 30)
        return self.open[name]

    async def states(self) -> AsyncIterator[ModelState]:
        while True:
            yield self.state
            await self.changed.wait()
            self.changed.clear()


def _app(host: ScriptedHost) -> Starlette:
    async def items(websocket: WebSocket) -> None:
        await serve_connection(websocket, host)

    return Starlette(routes=[WebSocketRoute(ITEMS_PATH, items)])


@asynccontextmanager
async def _serving(app: Any, path: Path) -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(app, uds=str(path), log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def _connected(host: ScriptedHost, path: Path) -> AsyncIterator[RunnerClient]:
    async with _serving(_app(host), path):
        client = RunnerClient("x", lambda: f"file://{path}")
        running = asyncio.create_task(client.run())
        try:
            await asyncio.wait_for(client.wait_until_loaded(), 30)
            yield client
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def test_a_runner_that_refuses_the_key_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = 0
    enough = asyncio.Event()

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        await refuse(scope, receive, send, Unauthenticated("a key is needed"), {})

    async def scenario() -> None:
        async with _serving(refusing, tmp_path / "s"):
            client = RunnerClient("x", lambda: f"file://{tmp_path / 's'}", "secret-key")
            running = asyncio.create_task(client.run())
            await asyncio.wait_for(enough.wait(), 30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "RUNNER_KEY" in record.getMessage()
    assert "secret-key" not in caplog.text


def test_thousands_of_concurrent_items_all_return_to_their_senders(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            answers = await asyncio.gather(*(client.submit(f"{i} 東京", {"n": i}) for i in range(5000)))
        assert answers == [{"echo": f"{i} 東京", "n": i} for i in range(5000)]

    asyncio.run(scenario())


def test_requests_for_the_tokenizer_and_their_errors_arrive_unchanged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            requests: list[TokenizerRequest] = [
                TokenizeText("東京", False, True), TokenizeChat({"messages": [None]}), Detokenize([1, 2**32])
            ]  # fmt: skip
            answers = await asyncio.gather(*map(client.use_tokenizer, requests))
            assert [answer["text"] for answer in answers] == list(map(repr, requests))
            with pytest.raises(InvalidRequest, match="wrong"):
                await client.use_tokenizer(TokenizeText("wrong"))
            with pytest.raises(Overloaded) as full:
                await client.use_tokenizer(TokenizeText("full"))
            assert full.value.retry_after == 7
            with pytest.raises(RequestTooLarge):
                client.use_tokenizer(TokenizeText("x" * (MAX_FRAME + 1)))

    asyncio.run(scenario())


def test_an_answer_knows_its_size_on_the_wire(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            answer = client.submit("x" * 1000, {})
            await answer
        assert isinstance(answer, Answer)
        assert 1000 < answer.size < 1100

    asyncio.run(scenario())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_arrays_arrive_unchanged(tmp_path: Path, dtype: str) -> None:
    class ArrayHost(ScriptedHost):
        def submit(
            self,
            instance: Any,
            parameters: dict[str, Any],
            listener: StreamListener | None = None,
            request_context: RequestContext | None = None,
        ) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_result([np.arange(24, dtype=dtype).reshape(2, 3, 4).transpose(1, 0, 2)])
            return future

    async def scenario() -> None:
        async with _connected(ArrayHost(), tmp_path / "s") as client:
            (array,) = await client.submit("", {})
        assert array.dtype == dtype
        assert array.tolist() == np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2).tolist()

    asyncio.run(scenario())


def test_errors_arrive_unchanged_and_without_internals(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            with pytest.raises(Overloaded, match="full") as full:
                await client.submit("full", {})
            assert full.value.retry_after == 7
            with pytest.raises(InvalidRequest, match="wrong"):
                await client.submit("wrong", {})
            with pytest.raises(Exception, match="log has the details") as bug:
                await client.submit("bug", {})
            assert "internal detail" not in str(bug.value)
            assert await client.submit("next", {}) == {"echo": "next"}

    asyncio.run(scenario())


def test_the_runner_receives_the_request_id_of_an_item(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            with request_context(RequestContext("the-id")):
                future = client.submit("origin", {})
            assert await future == "the-id"
            assert await client.submit("origin", {}) is None

    asyncio.run(scenario())


def test_log_lines_about_an_item_name_its_request(tmp_path: Path) -> None:
    named: list[list[RequestContext]] = []

    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            with request_context(RequestContext("the-id")), pytest.raises(InferenceFailed):
                await client.submit("bug", {})

    handler = logging.Handler()
    handler.emit = lambda record: named.append(current_request_contexts())  # type: ignore[method-assign]
    logger = logging.getLogger("hf_runtime.rpc.server")
    logger.addHandler(handler)
    try:
        asyncio.run(scenario())
    finally:
        logger.removeHandler(handler)
    assert named == [[RequestContext("the-id")]]


def test_an_item_cancelled_by_its_client_is_cancelled_in_the_runner(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = ScriptedHost()
        async with _connected(host, tmp_path / "s") as client:
            ours = client.submit({"open": "a"}, {})
            theirs = await host.wait_open("a")
            ours.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(theirs), 30)

    asyncio.run(scenario())


def test_cancelled_items_make_room_for_the_items_sent_right_after_them(tmp_path: Path) -> None:
    class OneAtATime(ScriptedHost):
        busy = 0

        def submit(
            self,
            instance: Any,
            parameters: dict[str, Any],
            listener: StreamListener | None = None,
            request_context: RequestContext | None = None,
        ) -> asyncio.Future[Any]:
            if self.busy:
                raise Overloaded("full", retry_after=1)
            future = super().submit(instance, parameters)
            self.busy += 1
            future.add_done_callback(lambda _: setattr(self, "busy", 0))
            return future

    async def scenario() -> None:
        host = OneAtATime()
        async with _connected(host, tmp_path / "s") as client:
            first = client.submit({"open": "a"}, {})
            await host.wait_open("a")
            first.cancel()
            await asyncio.sleep(0)  # the cancellation is queued and travels in one frame with the next messages
            assert await client.submit("second", {}) == {"echo": "second"}

    asyncio.run(scenario())


def test_a_runner_that_stops_fails_its_items_clearly_and_is_reconnected(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "s"
        client = RunnerClient("x", lambda: f"file://{path}")
        running = asyncio.create_task(client.run())
        host = ScriptedHost()
        async with _serving(_app(host), path):
            await asyncio.wait_for(client.wait_until_loaded(), 30)
            open_item = client.submit({"open": "a"}, {})
            await host.wait_open("a")
        with pytest.raises(ModelNotReady, match="stopped while it computed") as stopped:
            await asyncio.wait_for(open_item, 30)
        assert stopped.value.retry_after
        with pytest.raises(ModelNotReady, match="Model with name x is not ready"):
            client.submit("now", {})
        async with _serving(_app(ScriptedHost()), path):
            await asyncio.wait_for(client.wait_until_loaded(), 30)
            assert await client.submit("again", {}) == {"echo": "again"}
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_model_that_failed_reports_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = ScriptedHost()
        host.state = ModelState("failed", "no such file")
        async with _connected(host, tmp_path / "s") as client:
            with pytest.raises(ModelNotReady, match="no such file"):
                client.submit("now", {})

    asyncio.run(scenario())


def test_the_answer_to_a_load_or_unload_carries_the_models_state(tmp_path: Path) -> None:
    class Silent(ScriptedHost):
        async def states(self) -> AsyncIterator[ModelState]:
            yield self.state

    async def scenario() -> None:
        async with _connected(Silent(), tmp_path / "s") as client:
            for _ in range(3):
                await client.unload()
                with pytest.raises(ModelNotReady, match="It was unloaded") as refused:
                    client.check_ready()
                assert refused.value.retry_after is None
                await client.load()
                assert await client.submit("now", {}) == {"echo": "now"}

    asyncio.run(scenario())


def test_every_entry_process_receives_the_new_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, path = ScriptedHost(), tmp_path / "s"
        async with _connected(host, path) as ours:
            theirs = RunnerClient("x", lambda: f"file://{path}")
            running = asyncio.create_task(theirs.run())
            await asyncio.wait_for(theirs.wait_until_loaded(), 30)
            await ours.unload()
            async with asyncio.timeout(30), theirs._state_changed:
                await theirs._state_changed.wait_for(lambda: theirs.state.status == "unloaded")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_load_that_fails_reports_the_reason_and_one_without_a_connection_is_refused(tmp_path: Path) -> None:
    class Broken(ScriptedHost):
        def load(self) -> asyncio.Future[None]:
            self.state = ModelState("failed", "no such file")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(self.state.refusal("x"))
            return future

    async def scenario() -> None:
        async with _connected(Broken(), tmp_path / "s") as client:
            await client.unload()
            with pytest.raises(ModelNotReady, match="no such file"):
                await client.load()
            assert client.state == ModelState("failed", "no such file")
        with pytest.raises(ModelNotReady, match="starting") as away:
            await client.load()
        assert away.value.retry_after

    asyncio.run(scenario())


def test_an_item_that_cannot_be_sent_fails_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        async with _connected(ScriptedHost(), tmp_path / "s") as client:
            with pytest.raises(InvalidRequest):
                client.submit(deep, {})
            with pytest.raises(RequestTooLarge):
                client.submit("x" * (MAX_FRAME + 1), {})
            big = "x" * (MAX_FRAME - 1000)
            answers = await asyncio.gather(*(client.submit(big, {"n": n}) for n in range(3)))
        assert [answer["n"] for answer in answers] == [0, 1, 2]

    asyncio.run(scenario())


class RecordingListener:
    """Listener that records its calls in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_accepted(self) -> None:
        self.told.append("accepted")

    def on_delta(self, value: Any) -> None:
        self.told.append(value)


def test_deltas_of_many_streams_arrive_in_order_at_their_own_listener(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "socket") as client:
            heard = [RecordingListener() for _ in range(50)]
            ends = [
                client.submit({"stream": [f"{i}-{j}" for j in range(i)]}, {}, listener)
                for i, listener in enumerate(heard)
            ]
            assert await asyncio.gather(*ends) == [None] * 50
            for i, listener in enumerate(heard):
                assert listener.told == ["accepted", *(f"{i}-{j}" for j in range(i))]
            refused = RecordingListener()
            with pytest.raises(InvalidRequest):
                await client.submit("wrong", {}, refused)
            assert refused.told == []

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be_sent_is_immediately_the_error_of_its_item_only(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client, asyncio.timeout(30):
            sent = [client.submit(instance, {}) for instance in ("before", {"answer": name}, "after")]
            before, failed, after = await asyncio.gather(*sent, return_exceptions=True)
            assert isinstance(failed, InferenceFailed)
            assert "cannot be sent" in failed.message
            assert SECRET not in failed.message
            assert (before, after) == ({"echo": "before"}, {"echo": "after"})
            assert await client.submit("later", {}) == {"echo": "later"}

    asyncio.run(scenario())
    assert any("cannot be" in record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ANSWERS)
def test_a_delta_that_cannot_be_sent_ends_only_its_stream(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client, asyncio.timeout(30):
            bad, good = RecordingListener(), RecordingListener()
            ends = [
                client.submit({"stream": ["a", name, "b"]}, {}, bad), client.submit({"stream": ["a", "b"]}, {}, good)
            ]  # fmt: skip
            failed, ended = await asyncio.gather(*ends, return_exceptions=True)
            assert isinstance(failed, InferenceFailed)
            assert ended is None
            assert bad.told == ["accepted", "a"]
            assert good.told == ["accepted", "a", "b"]

    asyncio.run(scenario())
    assert SECRET not in caplog.text


def test_a_failing_listener_ends_only_its_stream_and_the_runner_cancels_it(tmp_path: Path) -> None:
    class CacheWrite(ScriptedHost):
        def submit(
            self,
            instance: Any,
            parameters: dict[str, Any],
            listener: StreamListener | None = None,
            request_context: RequestContext | None = None,
        ) -> asyncio.Future[Any]:
            if listener is not None:
                listener.on_delta("a")
            return super().submit(instance, parameters)

    class Failing(RecordingListener):
        def on_delta(self, value: Any) -> None:
            raise LookupError(value)

    async def scenario() -> None:
        host = CacheWrite()
        async with _connected(host, tmp_path / "s") as client, asyncio.timeout(30):
            end = client.submit({"open": "a"}, {}, Failing())
            with pytest.raises(InferenceFailed):
                await end
            with pytest.raises(asyncio.CancelledError):
                await asyncio.shield(await host.wait_open("a"))
            assert await client.submit("later", {}) == {"echo": "later"}

    asyncio.run(scenario())


def test_an_error_that_holds_half_of_a_character_arrives_and_so_does_a_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = ScriptedHost()
        async with _connected(host, tmp_path / "s") as client, asyncio.timeout(30):
            with pytest.raises(InvalidRequest, match=r"a\?b"):
                await client.submit({"error": list(b"a\xffb")}, {})
        host.state = ModelState("failed", "no file \udcff")
        async with _connected(host, tmp_path / "s") as client:
            assert client.state.reason == "no file ?"

    asyncio.run(scenario())


def test_a_model_that_fails_on_submission_fails_that_item_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _connected(ScriptedHost(), tmp_path / "s") as client, asyncio.timeout(30):
            with pytest.raises(InferenceFailed) as failed:
                await client.submit("broken", {})
            assert "internal detail" not in failed.value.message
            assert await client.submit("later", {}) == {"echo": "later"}

    asyncio.run(scenario())


def test_numbers_and_strings_of_numpy_arrive_as_plain_ones(tmp_path: Path) -> None:
    answer = [np.float64(0.5), np.str_("a"), {np.str_("k"): np.array(["b"])}]

    class Numpy(ScriptedHost):
        def submit(
            self,
            instance: Any,
            parameters: dict[str, Any],
            listener: StreamListener | None = None,
            request_context: RequestContext | None = None,
        ) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_result(answer)
            return future

    async def scenario() -> None:
        async with _connected(Numpy(), tmp_path / "s") as client, asyncio.timeout(30):
            assert await client.submit("", {}) == [0.5, "a", {"k": ["b"]}]

    asyncio.run(scenario())
