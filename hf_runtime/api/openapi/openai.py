"""Descriptions of the routes under `/openai/v1`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_runtime.api.openai.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from hf_runtime.api.openai.completions import Completion, CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingList, EmbeddingRequest
from hf_runtime.api.openai.errors import OpenAIError
from hf_runtime.api.openai.routes import ModelList, ModelObject
from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.api.openapi.operation import (
    COMPUTING,
    JSON,
    Operations,
    Served,
    answer,
    errors,
    events,
    model_parameter,
    ok,
    operation,
)
from hf_runtime.api.openapi.schemas import Json

_TAG = "OpenAI"

#: Prefix of the error components in OpenAI's format.
ERRORS = "OpenAI"


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of = served.schemas.of
    question = [{"role": "user", "content": "What is the capital of France?"}]
    return {
        "POST /openai/v1/completions": _describe_post(
            served,
            "Continue texts",
            CompletionRequest,
            {"prompt": "The capital of France is", "max_tokens": 20},
            _make_answer(of(Completion), of(Completion), of(OpenAIError)),
        ),
        "POST /openai/v1/chat/completions": _describe_post(
            served,
            "Answer a chat",
            ChatRequest,
            {"messages": question, "max_tokens": 20},
            _make_answer(of(ChatCompletion), of(ChatCompletionChunk), of(OpenAIError)),
        ),
        "POST /openai/v1/embeddings": _describe_post(
            served,
            "Compute embeddings",
            EmbeddingRequest,
            {"input": "A cat sits on the mat."},
            ok(of(EmbeddingList)),
        ),
        "GET /openai/v1/models": operation(_TAG, "openai_models", "All models", ok(of(ModelList))),
        "GET /openai/v1/models/{name}": operation(
            _TAG,
            "openai_model",
            "A model that is ready",
            {**ok(of(ModelObject)), **errors(ERRORS, (404, 503))},
            parameters=[model_parameter(served.models.names)],
        ),
    }


def _describe_post(
    served: Served, summary: str, kind: type[OpenAIRequest], example: dict[str, Any], responses: Json
) -> Json:
    """Return the description of a route that takes a kind of request.

    It lists the models of the request's tasks, and the models whose task is not known.
    """
    body: Json = {"schema": served.schemas.of(kind)}
    models = served.find_models((*kind.tasks, None))
    if models:
        served.schemas.narrow(kind.__name__, model={"type": "string", "enum": models})
        body["example"] = {"model": models[0], **example}
    name = kind.__name__.removesuffix("Request").lower()
    return operation(
        _TAG,
        f"openai_{name}",
        summary,
        {**responses, **errors(ERRORS, COMPUTING)},
        description=f"By a model that does {' or '.join(kind.tasks)}.",
        body={JSON: body},
    )


def describe_chat_posts(
    served: Served,
    paths: Sequence[str],
    tag: str,
    name: str,
    summary: str,
    kind: type[OpenAIRequest],
    example: dict[str, Any],
    responses: Json,
    error_prefix: str,
) -> Operations:
    """Return the descriptions of the paths of another protocol that take a chat.

    Args:
        name: the `operationId` of the first path; those of the others end in a number.
        responses: the 200 response.
        error_prefix: prefix of the error components in the protocol's format.
    """
    body: Json = {"schema": served.schemas.of(kind)}
    models = served.find_models((*kind.tasks, None))
    if models:
        served.schemas.narrow(kind.__name__, model={"type": "string", "enum": models})
        body["example"] = {"model": models[0], **example}
    description = f"By a model that does {' or '.join(kind.tasks)}."
    return {
        f"POST {path}": operation(
            tag,
            f"{name}_{number}" if number else name,
            summary,
            {**responses, **errors(error_prefix, COMPUTING)},
            description=description,
            body={JSON: body},
        )
        for number, path in enumerate(paths)
    }


def _make_answer(whole: Json, event: Json, error: Json) -> Json:
    streamed = events({"anyOf": [event, error]}, "data: {…}\n\ndata: [DONE]\n\n", end="[DONE]")
    return answer({JSON: {"schema": whole}, "text/event-stream": streamed})
