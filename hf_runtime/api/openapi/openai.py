"""The routes under `/openai/v1`."""

from __future__ import annotations

from typing import Any

from hf_runtime.api.openai.chat import ChatRequest
from hf_runtime.api.openai.completions import CompletionRequest
from hf_runtime.api.openai.embeddings import EmbeddingRequest
from hf_runtime.api.openai.schema import OpenAIRequest
from hf_runtime.api.openapi.answers.openai import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    EmbeddingList,
    ModelList,
    ModelObject,
    OpenAIError,
)
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

#: Of the errors, which have OpenAI's shape.
ERRORS = "OpenAI"


def operations(served: Served) -> Operations:
    """Descriptions by method and path."""
    of = served.schemas.of
    question = [{"role": "user", "content": "What is the capital of France?"}]
    return {
        "POST /openai/v1/completions": _create(
            served,
            "Continue texts",
            CompletionRequest,
            {"prompt": "The capital of France is", "max_tokens": 20},
            _whole_or_streamed(of(Completion), of(Completion), of(OpenAIError)),
        ),
        "POST /openai/v1/chat/completions": _create(
            served,
            "Answer a chat",
            ChatRequest,
            {"messages": question, "max_tokens": 20},
            _whole_or_streamed(of(ChatCompletion), of(ChatCompletionChunk), of(OpenAIError)),
        ),
        "POST /openai/v1/embeddings": _create(
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


def _create(served: Served, summary: str, kind: type[OpenAIRequest], example: dict[str, Any], responses: Json) -> Json:
    """A route that takes a request of that kind; what it needs in a model, only models of unknown task may have too."""
    body: Json = {"schema": served.schemas.of(kind)}
    models = served.doing((*kind.tasks, None))
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


def _whole_or_streamed(whole: Json, event: Json, error: Json) -> Json:
    streamed = events({"anyOf": [event, error]}, "data: {…}\n\ndata: [DONE]\n\n", end="[DONE]")
    return answer({JSON: {"schema": whole}, "text/event-stream": streamed})
