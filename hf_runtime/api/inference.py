"""Inference for all protocols, between parsing and rendering."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter, time
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
    """Models of this server by name.

    Args:
        tasks: the task of each model, if it is known.

    Attributes:
        created: Unix time of the server's start, in seconds.
    """

    def __init__(self, clients: Mapping[str, ModelClient], tasks: Mapping[str, Task] | None = None) -> None:
        self._clients = clients
        self._tasks = tasks or {}
        self.created = int(time())

    @property
    def names(self) -> list[str]:
        """All configured names, ready or not, in the order of configuration."""
        return list(self._clients)

    @property
    def ready(self) -> bool:
        """True if this server should get requests: every model has settled, and one can answer.

        A model that failed or restarts refuses its own requests; the other models keep serving. An unloaded model
        counts as ready: otherwise a server without loaded models could get no request to load one.
        """
        clients = self._clients.values()
        useful = ("ready", "unloading", "unloaded")
        return all(client.settled for client in clients) and any(client.state.status in useful for client in clients)

    def get_task(self, name: str) -> Task | None:
        """Return a model's task; None if it is not known, or no model has that name."""
        if name in self._tasks or name not in self._clients:
            return self._tasks.get(name)
        # Its source could not be reached when the server started.
        return self._clients[name].state.task

    def check_all_ready(self) -> None:
        """Check readiness as the Open Inference Protocol defines it; unloaded models are left out.

        Raises:
            ModelNotReady: a model cannot answer now.
        """
        for client in self._clients.values():
            if client.state.status != "unloaded":
                client.check_ready()

    def get_states(self) -> dict[str, ModelState]:
        """Return the state of each model, in the order of configuration."""
        return {name: client.state for name, client in self._clients.items()}

    def get_ready_client(self, name: str, call: CallContext) -> ModelClient:
        """Return the client of a ready model, and store the model's name in the call's record.

        Raises:
            ModelNotFound: no model has that name.
            ModelNotReady: it is loading or unloaded, or has failed.
        """
        client = self.get_client(name, call)
        client.check_ready()
        return client

    def get_client(self, name: str, call: CallContext) -> ModelClient:
        """Return the client of any model, and store the model's name in the call's record.

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
    locate: Callable[[int], str],
    settings: ServerSettings,
) -> list[Any]:
    """Compute all items of one request, or fail with the error of the first item that fails.

    Args:
        call: if its client leaves, the items are cancelled.
        items: instances, each with its parameters.
        locate: returns the path of an instance in the request, for error messages.

    Raises:
        ServingError: an instance failed, and the message begins with its path, such as `instances[3]`; or all answers
            together are too large.
        ClientLeft: the client left before the answer.
    """
    record = call.record
    if settings.log_payloads:
        items = log_items(client.name, items)
    futures: list[asyncio.Future[Any]] = []
    size = _AnswerSize(settings.max_answers_size, futures)
    record.predict_started = perf_counter()
    try:
        for index, (instance, parameters) in enumerate(items):
            try:
                futures.append(client.submit(instance, parameters))
                futures[-1].add_done_callback(size.add)
            except ServingError as error:
                raise error.with_path(locate(index)) from None
            record.instances += 1
        gathered = asyncio.gather(*futures)
        # Its error is not retrieved if the client leaves.
        gathered.add_done_callback(mark_error_retrieved)
        await wait_in_time(call, gathered, f"no answer within {call.timeout:g} s (REQUEST_TIMEOUT)")
        size.check()
        answers = _get_answers(gathered, futures, locate)
        if settings.log_payloads:
            log_payload("answers", client.name, answers)
        return answers
    finally:
        record.predict_ended = perf_counter()
        for future in futures:
            if not future.cancel():
                mark_error_retrieved(future)


class _AnswerSize:
    """Total bytes of the answers to one request.

    Beyond the limit, the pending answers are cancelled.

    Args:
        futures: all answers.
    """

    def __init__(self, limit: int, futures: Sequence[asyncio.Future[Any]]) -> None:
        self._limit, self._futures = limit, futures
        self._sum = 0

    def add(self, answer: asyncio.Future[Any]) -> None:
        """Count an answer that is done."""
        before = self._sum
        self._sum += answer.size if isinstance(answer, Answer) else 0
        # Only once, because this is called for each cancelled answer, too.
        if before <= self._limit < self._sum:
            for future in self._futures:
                future.cancel()

    def check(self) -> None:
        """Raise `InvalidRequest` if the answers are larger than the limit."""
        if self._sum > self._limit:
            raise InvalidRequest(
                f"the answers to this request take more than {self._limit} bytes (MAX_ANSWERS_SIZE): ask for fewer, or "
                "for shorter ones, in one request"
            )


def _get_answers(
    gathered: asyncio.Future[list[Any]], futures: Sequence[asyncio.Future[Any]], locate: Callable[[int], str]
) -> list[Any]:
    if gathered.exception() is None:
        return gathered.result()
    for index, future in enumerate(futures):
        if future.done() and not future.cancelled() and isinstance(error := future.exception(), ServingError):
            raise error.with_path(locate(index))
    return gathered.result()


def render_answers(
    answers: Sequence[Any], render: Callable[[Sequence[Any]], ResponseT], locate: Callable[[int], str]
) -> ResponseT:
    """Return the response to a request whose items are all computed.

    Args:
        render: called with all answers; if it fails, with one answer at a time to find the one that cannot be sent.
        locate: as for `infer`.

    Raises:
        InferenceFailed: an answer cannot be written; the message begins with the path of its instance.
    """
    try:
        return render(answers)
    except InferenceFailed as error:
        failed = error
    logger.error("an answer cannot be written: %s", failed.message)
    for index, answer in enumerate(answers):
        try:
            render([answer])
        except InferenceFailed as error:
            raise error.with_path(locate(index)) from None
    raise failed


async def wait_in_time(call: CallContext, future: asyncio.Future[Any], late: str) -> None:
    """Wait until a future is done, with or without an error.

    Args:
        late: the message for a client whose call takes too long.

    Raises:
        DeadlineExceeded: the call takes longer than its timeout.
        ClientLeft: the client left.
    """
    watcher = asyncio.ensure_future(call.wait_until_left())
    watcher.add_done_callback(mark_error_retrieved)
    try:
        done, _ = await asyncio.wait((future, watcher), timeout=call.timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
    if future in done:
        return
    if watcher in done:
        raise ClientLeft
    raise DeadlineExceeded(late)


def mark_error_retrieved(done: asyncio.Future[Any]) -> None:
    """Retrieve the error of a finished future, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()
