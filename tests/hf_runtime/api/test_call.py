"""Promise: requests of any transport are answered and streamed without an HTTP framework."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hf_runtime.api.call import CallContext, Caller, ClientLeft
from hf_runtime.api.inference import Models, infer
from hf_runtime.api.streaming import AnswerStreams, Chunk
from hf_runtime.contract.errors import DeadlineExceeded, InvalidRequest, Overloaded
from hf_runtime.contract.listener import StreamListener
from hf_runtime.observability.request_record import RequestRecord
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ServerSettings
from tests.hf_runtime.api.scripted_client import ScriptedClient

SETTINGS = ServerSettings()


class _Streaming(ScriptedClient):
    """Client that streams the letters of each instance; the stream of an empty one never ends."""

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        if listener is None or instance == "wrong":
            return super().submit(instance, parameters, listener)
        end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        listener.on_accepted()
        for letter in instance:
            listener.on_delta({"generated_text": letter})
        if instance:
            end.set_result(None)
        else:
            end.add_done_callback(lambda done: self.cancelled.extend([instance] * done.cancelled()))
        return end


def _client() -> _Streaming:
    return _Streaming("x", ModelState("ready"))


def _call(*, timeout: float = 60, left: asyncio.Event | None = None, caller: Caller | None = None) -> CallContext:
    left = left or asyncio.Event()
    return CallContext(RequestRecord("gRPC", "/infer", "id"), caller or Caller(None), timeout, left.wait)


def _locate(index: int) -> str:
    return f"inputs[{index}]"


async def _infer(call: CallContext, client: ScriptedClient, *instances: Any) -> list[Any]:
    return await infer(call, client, [(one, {}) for one in instances], locate=_locate, settings=SETTINGS)


async def _start(call: CallContext, client: ScriptedClient, *instances: Any) -> AnswerStreams:
    return await AnswerStreams.start(call, client, [(one, {}) for one in instances], locate=_locate, settings=SETTINGS)


def test_a_call_is_answered_and_recorded() -> None:
    async def scenario() -> None:
        call = _call()
        client = Models({"x": _client()}).get_ready_client("x", call)
        assert await _infer(call, client, "a", "b") == [["a", {}], ["b", {}]]  # type: ignore[arg-type]
        assert (call.record.model_name, call.record.instances) == ("x", 2)
        assert call.record.predict_ended is not None

    asyncio.run(scenario())


def test_an_error_names_the_instance_as_the_protocol_calls_it() -> None:
    with pytest.raises(InvalidRequest, match=r"^inputs\[1\]: must be right$"):
        asyncio.run(_infer_alone("a", "wrong"))


async def _infer_alone(*instances: Any) -> list[Any]:
    return await _infer(_call(), _client(), *instances)


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    async def scenario() -> None:
        client = _client()
        with pytest.raises(DeadlineExceeded):
            await _infer(_call(timeout=0), client, "never")
        await asyncio.sleep(0)
        assert client.cancelled == ["never"]

    asyncio.run(scenario())


def test_a_client_that_leaves_cancels_its_call() -> None:
    async def scenario() -> None:
        client, left = _client(), asyncio.Event()
        left.set()
        with pytest.raises(ClientLeft):
            await _infer(_call(left=left), client, "never")
        await asyncio.sleep(0)
        assert client.cancelled == ["never"]

    asyncio.run(scenario())


def test_a_stream_gives_the_deltas_of_each_instance_and_its_end() -> None:
    async def scenario() -> list[Chunk]:
        return [chunk async for chunks in await _start(_call(), _client(), "ab", "c") for chunk in chunks]

    deltas = [(chunk.index, chunk.delta) for chunk in asyncio.run(scenario())]
    assert [delta for index, delta in deltas if index == 0] == [{"generated_text": "a"}, {"generated_text": "b"}, None]
    assert [delta for index, delta in deltas if index == 1] == [{"generated_text": "c"}, None]


def test_a_stream_ends_with_its_client_and_is_no_longer_counted() -> None:
    async def scenario() -> None:
        client, left, caller = _client(), asyncio.Event(), Caller(1)
        streams = await _start(_call(left=left, caller=caller), client, "")
        with pytest.raises(Overloaded):
            await _start(_call(caller=caller), client, "a")
        left.set()
        with pytest.raises(ClientLeft):
            async for _ in streams:
                pass
        with _closed(streams):
            assert client.cancelled == []
        await asyncio.sleep(0)
        assert client.cancelled == [""]
        (await _start(_call(caller=caller), client, "a")).close()

    asyncio.run(scenario())


@contextmanager
def _closed(streams: AnswerStreams) -> Iterator[None]:
    try:
        yield
    finally:
        streams.close()
