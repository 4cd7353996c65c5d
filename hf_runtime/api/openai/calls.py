"""Calls of models for the requests of OpenAI's API and of its relatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.call import make_call_context
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.http.streaming_body import StreamingBody
from hf_runtime.api.inference import Models, infer, render_answers
from hf_runtime.api.openai.schema import OpenAIRequest, name_ignored_fields
from hf_runtime.api.streaming import AnswerStreams, Chunk
from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings


class Events(Protocol):
    """Renderer of the events of a stream."""

    def render(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the events for chunks that arrived together."""

    def end(self) -> bytes:
        """Return the last events."""


class ModelCalls:
    """Calls of the models of this server."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self._models, self._settings = models, settings

    def find_client(self, call: CallContext, parsed: OpenAIRequest) -> ModelClient:
        """Return the client of the requested model.

        Raises:
            InvalidRequest: the model does another task.
            ModelNotFound, ModelNotReady: as `Models.get_ready_client`.
        """
        task = self._models.get_task(parsed.model)
        if task is not None and task not in parsed.tasks:
            needed = " or ".join(parsed.tasks)
            raise InvalidRequest(f"{parsed.model} does {task}, this needs a model that does {needed}", field="model")
        return self._models.get_ready_client(parsed.model, call)

    async def answer(self, request: Request, parsed: OpenAIRequest, render: Callable[[Sequence[Any]], Any]) -> Response:
        """Return the whole answer.

        Args:
            render: makes the body from the runner's answers, one for each item.
        """
        call = make_call_context(request, self._settings)
        client = self.find_client(call, parsed)
        try:
            answers = await infer(call, client, parsed.items, locate=parsed.locate, settings=self._settings)
            headers = name_ignored_fields(parsed)
            return render_answers(answers, lambda some: json_response(render(some), headers=headers), parsed.locate)
        except ServingError as error:
            raise parsed.translate_error(error) from None

    async def stream(self, request: Request, parsed: OpenAIRequest, make_events: Callable[[], Events]) -> Response:
        """Return the answer as a stream of events.

        Args:
            make_events: called once the model has accepted the request.
        """
        call = make_call_context(request, self._settings)
        client = self.find_client(call, parsed)
        try:
            streams = await AnswerStreams.start(
                call, client, parsed.items, locate=parsed.locate, settings=self._settings
            )
        except ServingError as error:
            raise parsed.translate_error(error) from None
        events = make_events()
        response = StreamingBody(streams, events.render, "text/event-stream", events.end)
        response.headers.update(name_ignored_fields(parsed))
        return response
