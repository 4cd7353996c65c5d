"""Promise: several runners of one model share the work, and an absent one is skipped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.contract.listener import StreamListener
from hf_runtime.rpc.client import RunnerClient
from hf_runtime.rpc.messages import ModelState, ModelStatus
from hf_runtime.rpc.replicas import Replicas


class ScriptedReplica(RunnerClient):
    """Replica in a scripted state that answers when the test says so."""

    def __init__(self, status: ModelStatus = "ready") -> None:
        super().__init__("x", lambda: None)
        self.status: ModelStatus = status
        self.state = ModelState(status, "broken" if status == "failed" else None)
        self.settled = status != "loading"
        self.open: list[asyncio.Future[Any]] = []

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    @property
    def unanswered(self) -> int:
        return len(self.open)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        self.check_ready()
        self.open.append(asyncio.get_running_loop().create_future())
        return self.open[-1]

    async def load(self) -> None:
        await self._command("ready")

    async def unload(self) -> None:
        await self._command("unloaded")

    async def _command(self, status: ModelStatus) -> None:
        if self.status in ("loading", "failed"):
            raise ModelNotReady("away", retry_after=5)
        self.status = status
        self.state = ModelState(status)


def _submit(replicas: Replicas, times: int) -> None:
    async def scenario() -> None:
        for _ in range(times):
            replicas.submit("", {})

    asyncio.run(scenario())


def test_items_go_to_the_replica_with_the_fewest_waiting() -> None:
    busy, idle = ScriptedReplica(), ScriptedReplica()
    replicas = Replicas([busy, idle])
    _submit(replicas, 4)
    assert (busy.unanswered, idle.unanswered) == (2, 2)
    idle.open.clear()
    _submit(replicas, 2)
    assert (busy.unanswered, idle.unanswered) == (2, 2)


@pytest.mark.parametrize("status", ["loading", "failed"])
def test_only_ready_replicas_serve_the_model(status: ModelStatus) -> None:
    away, ready = ScriptedReplica(status), ScriptedReplica()
    replicas = Replicas([away, ready])
    _submit(replicas, 3)
    assert (away.unanswered, ready.unanswered) == (0, 3)
    assert replicas.state.status == "ready"


def test_without_a_ready_replica_the_model_is_loading_or_failed_with_the_reason() -> None:
    mixed = Replicas([ScriptedReplica("failed"), ScriptedReplica("loading")])
    assert (mixed.state.status, mixed.settled) == ("loading", False)
    failed = Replicas([ScriptedReplica("failed"), ScriptedReplica("failed")])
    assert (failed.state, failed.settled) == (ModelState("failed", "broken"), True)
    with pytest.raises(ModelNotReady, match="It could not be loaded: broken"):
        failed.check_ready()


def test_load_and_unload_reach_all_replicas_even_if_one_fails() -> None:
    first, second = ScriptedReplica(), ScriptedReplica()
    replicas = Replicas([first, second])
    asyncio.run(replicas.unload())
    assert (first.status, second.status, replicas.state.status) == ("unloaded", "unloaded", "unloaded")
    with pytest.raises(ModelNotReady, match="It was unloaded"):
        replicas.check_ready()
    asyncio.run(replicas.load())
    assert (first.status, second.status, replicas.state.status) == ("ready", "ready", "ready")
    first.status = "loading"
    with pytest.raises(ModelNotReady, match="away"):
        asyncio.run(replicas.unload())
    assert second.status == "unloaded"


def test_a_model_is_loading_while_a_replica_restarts_although_another_was_unloaded() -> None:
    replicas = Replicas([ScriptedReplica("unloaded"), ScriptedReplica("loading")])
    with pytest.raises(ModelNotReady) as refused:
        replicas.check_ready()
    assert refused.value.retry_after


def test_a_model_has_failed_for_good_once_all_replicas_have_failed_at_the_same_time() -> None:
    async def scenario() -> None:
        first, second = RunnerClient("x", lambda: None), RunnerClient("x", lambda: None)
        replicas = Replicas([first, second])
        waiting = asyncio.create_task(replicas.wait_final())
        failed, retried = ModelState("failed", "broken"), ModelState("failed", "away", retried=True)

        async def become(client: RunnerClient, state: ModelState, *, final: bool) -> None:
            await client._set_state(state)
            for _ in range(10):
                await asyncio.sleep(0)
            assert waiting.done() == final
            assert replicas.state.is_final == final

        await become(first, failed, final=False)
        await become(second, retried, final=False)
        assert replicas.state == retried
        await become(first, ModelState("loading"), final=False)
        await become(second, failed, final=False)
        await become(first, ModelState("ready"), final=False)
        await become(first, failed, final=True)

    asyncio.run(scenario())
