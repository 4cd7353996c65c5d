"""What every protocol does between parsing and rendering: a model by its name, all instances or none, in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from hf_runtime.api.call import CallContext, ClientLeft
from hf_runtime.api.http.payload_log import log_items, log_payload
from hf_runtime.contract.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    ModelNotFound,
    ServingError,
)
from hf_runtime.rpc.client import Answer
from hf_runtime.rpc.messages import ModelState
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings, Task

logger = logging.getLogger(__name__)

ResponseT = TypeVar("ResponseT")


class Models:
    """The models of this server by name.

    Args:
        tasks: what each model does, as far as that is known.
    """

    def __init__(self, clients: Mapping[str, ModelClient], tasks: Mapping[str, Task] | None = None) -> None:
        self._clients = clients
        self._tasks = tasks or {}

    @property
    def names(self) -> list[str]:
        """All configured names, ready or not, in the order of configuration."""
        return list(self._clients)

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here: nothing loads for the first time, and a model can answer.

        One that has failed, or restarts, says so itself: its own requests are refused, those to the others are not.
        One that was unloaded counts as well: a server that nothing is sent to any more could not be asked to load it.
        """
        clients = self._clients.values()
        useful = ("ready", "unloading", "unloaded")
        return all(client.settled for client in clients) and any(client.state.status in useful for client in clients)

    def task(self, name: str) -> Task | None:
        """What a model does; None if that is not known, or no model has that name."""
        if name in self._tasks or name not in self._clients:
            return self._tasks.get(name)
        # Its source could not be asked when the server started.
        return self._clients[name].state.task

    def check_all_ready(self) -> None:
        """What the Open Inference Protocol calls a ready server; a model that was unloaded is none of its models.

        Raises:
            ModelNotReady: a model cannot answer now.
        """
        for client in self._clients.values():
            if client.state.status != "unloaded":
                client.check_ready()

    def states(self) -> dict[str, ModelState]:
        """How each model is, in the order of configuration."""
        return {name: client.state for name, client in self._clients.items()}

    def get(self, name: str, call: CallContext) -> ModelClient:
        """Return a model that is ready, and note its name in the call's record.

        Raises:
            ModelNotFound: no model has that name.
            ModelNotReady: it is loading or unloaded, or has failed.
        """
        client = self.client(name, call)
        client.check_ready()
        return client

    def client(self, name: str, call: CallContext) -> ModelClient:
        """Return a model that need not be ready, and note its name in the call's record.

        Raises:
            ModelNotFound: no model has that name.
        """
        try:
            client = self._clients[name]
        except KeyError:
            raise ModelNotFound(f"Model with name {name} does not exist.") from None
        call.record.model_name = name
        return client


async def infer(
    call: CallContext,
    client: ModelClient,
    items: Iterable[tuple[Any, dict[str, Any]]],
    *,
    place: Callable[[int], str],
    settings: ServerSettings,
) -> list[Any]:
    """Compute all items of one request, or fail as a whole with the first item that fails.

    Args:
        call: when its client leaves, the items are cancelled.
        items: instances, each with its parameters.
        place: what the protocol calls the instance of that index, for error messages.

    Raises:
        ServingError: led by the place of the failed instance, such as `instances[3]`; or all answers together are more
            than one request may have.
        ClientLeft: the client left before the answer.
    """
    record = call.record
    if settings.log_payloads:
        items = log_items(client.name, items)
    futures: list[asyncio.Future[Any]] = []
    size = _Size(settings.max_answers_size, futures)
    record.predict_started = perf_counter()
    try:
        for index, (instance, parameters) in enumerate(items):
            try:
                futures.append(client.submit(instance, parameters))
                futures[-1].add_done_callback(size.add)
            except ServingError as error:
                raise error.located(place(index)) from None
            record.instances += 1
        everything = asyncio.gather(*futures)
        # Whoever leaves does not ask for it.
        everything.add_done_callback(take_note)
        await wait_in_time(call, everything, f"no answer within {call.timeout:g} s (REQUEST_TIMEOUT)")
        size.check()
        answers = _unless_failed(everything, futures, place)
        if settings.log_payloads:
            log_payload("answers", client.name, answers)
        return answers
    finally:
        record.predict_ended = perf_counter()
        for future in futures:
            if not future.cancel():
                take_note(future)


class _Size:
    """Bytes of the answers to one request, which cancels what is not answered yet when they are too many.

    Args:
        futures: all answers.
    """

    def __init__(self, limit: int, futures: Sequence[asyncio.Future[Any]]) -> None:
        self._limit, self._futures = limit, futures
        self._sum = 0

    def add(self, answer: asyncio.Future[Any]) -> None:
        """Count an answer that is there."""
        before = self._sum
        self._sum += answer.size if isinstance(answer, Answer) else 0
        # Once: each answer that is cancelled comes here too.
        if before <= self._limit < self._sum:
            for future in self._futures:
                future.cancel()

    def check(self) -> None:
        """Raise `InvalidRequest` if they are too many."""
        if self._sum > self._limit:
            raise InvalidRequest(
                f"the answers to this request take more than {self._limit} bytes (MAX_ANSWERS_SIZE): ask for fewer, or "
                "for shorter ones, in one request"
            )


def _unless_failed(
    everything: asyncio.Future[list[Any]], futures: Sequence[asyncio.Future[Any]], place: Callable[[int], str]
) -> list[Any]:
    if everything.exception() is None:
        return everything.result()
    for index, future in enumerate(futures):
        if future.done() and not future.cancelled() and isinstance(error := future.exception(), ServingError):
            raise error.located(place(index))
    return everything.result()


def write(
    answers: Sequence[Any], response: Callable[[Sequence[Any]], ResponseT], place: Callable[[int], str]
) -> ResponseT:
    """Return the response to a request whose items are all computed.

    Args:
        response: is made of all answers, or, to find the one that is to blame, of one.
        place: as for `infer`.

    Raises:
        InferenceFailed: an answer cannot be written; led by the place of its instance.
    """
    try:
        return response(answers)
    except InferenceFailed as error:
        failed = error
    logger.error("an answer cannot be written: %s", failed.message)
    for index, answer in enumerate(answers):
        try:
            response([answer])
        except InferenceFailed as error:
            raise error.located(place(index)) from None
    raise failed


async def wait_in_time(call: CallContext, doing: asyncio.Future[Any], late: str) -> None:
    """Wait until a future is done, with or without an error.

    Args:
        late: the message for a client whose call takes too long.

    Raises:
        DeadlineExceeded: the call takes longer than it may.
        ClientLeft: the client left.
    """
    watcher = asyncio.ensure_future(call.wait_until_left())
    watcher.add_done_callback(take_note)
    try:
        done, _ = await asyncio.wait((doing, watcher), timeout=call.timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
    if doing in done:
        return
    if watcher in done:
        raise ClientLeft
    raise DeadlineExceeded(late)


def take_note(done: asyncio.Future[Any]) -> None:
    """Retrieve the error of a finished future, so that asyncio does not report it."""
    if not done.cancelled():
        done.exception()
