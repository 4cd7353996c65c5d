"""Descriptions of the routes of OpenAI's API, under `/openai/v1` and `/v1`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_runtime.api.openai.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from hf_runtime.api.openai.completions import Completion, CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingList, EmbeddingRequest
from hf_runtime.api.openai.errors import OpenAIError
from hf_runtime.api.openai.models import ModelList, ModelObject
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

#: Header of answers to requests with unknown fields.
_IGNORED: Json = {"X-Ignored-Fields": {"$ref": "#/components/headers/X-Ignored-Fields"}}


def describe_routes(served: Served) -> Operations:
    """Return the descriptions by method and path."""
    of = served.schemas.of
    computing = _describe_computing(served)
    return {
        **{f"POST /openai{path}": described for path, described in computing.items()},
        **{
            f"POST {path}": {**described, "operationId": described["operationId"].replace("openai_", "openai_v1_")}
            for path, described in computing.items()
        },
        "GET /openai/v1/models": operation(_TAG, "openai_models", "List all models", ok(of(ModelList))),
        "GET /openai/v1/models/{name}": operation(
            _TAG,
            "openai_model",
            "Return a model, if it is ready",
            {**ok(of(ModelObject)), **errors(ERRORS, (404, 503))},
            parameters=[model_parameter(served.models.names)],
        ),
    }


def _describe_computing(served: Served) -> Operations:
    """Return the descriptions of the routes that compute answers, by the path under the base."""
    of = served.schemas.of
    question = [{"role": "user", "content": "What is the capital of France?"}]
    return {
        "/v1/completions": _describe_post(
            served,
            "Continue prompts",
            CompletionRequest,
            {"prompt": "The capital of France is", "max_tokens": 20},
            _make_answer(of(Completion), of(Completion), of(OpenAIError)),
        ),
        "/v1/chat/completions": _describe_post(
            served,
            "Answer a chat",
            ChatRequest,
            {"messages": question, "max_tokens": 20},
            _make_answer(of(ChatCompletion), of(ChatCompletionChunk), of(OpenAIError)),
        ),
        "/v1/embeddings": _describe_post(
            served,
            "Compute embeddings",
            EmbeddingRequest,
            {"input": "A cat sits on the mat."},
            answer({JSON: {"schema": of(EmbeddingList)}}, _IGNORED),
        ),
    }


def _describe_post(
    served: Served, summary: str, kind: type[OpenAIRequest], example: dict[str, Any], responses: Json
) -> Json:
    """Return the description of a route that takes a kind of request.

    It lists the models of the request's tasks, and the models whose task is not known.
    """
    name = kind.__name__.removesuffix("Request").lower()
    return operation(
        _TAG,
        f"openai_{name}",
        summary,
        {**responses, **errors(ERRORS, COMPUTING)},
        description=f"The model's task must be {' or '.join(kind.tasks)}.",
        body={JSON: _describe_body(served, kind, example, ERRORS)},
    )


def _describe_body(served: Served, kind: type[OpenAIRequest], example: dict[str, Any], prefix: str) -> Json:
    """Return the description of a request's body, with the models that can answer it."""
    body: Json = {"schema": describe_request(served, kind, prefix)}
    models = served.find_models((*kind.tasks, None))
    if models:
        served.schemas.narrow(kind.__name__, model={"type": "string", "enum": models})
        body["example"] = {"model": models[0], **example}
    return body


def describe_request(served: Served, kind: type[OpenAIRequest], prefix: str) -> Json:
    """Return the schema of a request, which may have unknown fields if the server ignores them.

    Args:
        prefix: as in `Schemas.of_open`.
    """
    ignores = served.settings.openai_unknown_fields == "ignore"
    return served.schemas.of_open(kind, prefix) if ignores else served.schemas.of(kind)


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
    body = _describe_body(served, kind, example, error_prefix)
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
    return answer({JSON: {"schema": whole}, "text/event-stream": streamed}, _IGNORED)
