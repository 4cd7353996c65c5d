"""Models in OpenAI's format: https://platform.openai.com/docs/api-reference/models."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from hf_runtime.api.inference import Models
from hf_runtime.contract.answer_type import answer_type


@answer_type
class ModelObject(TypedDict):
    """A model of this server.

    `max_model_len` is vLLM's addition: the most tokens of a prompt and its answer; null while the model is not ready,
    or if it has no known limit.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


@answer_type
class ModelList(TypedDict):
    """All models, ready or not."""

    object: Literal["list"]
    data: list[ModelObject]


def describe_model(models: Models, name: str) -> ModelObject:
    """Return the object of a configured model."""
    return {
        "id": name,
        "object": "model",
        "created": models.created,
        "owned_by": "hugging-face-runtime",
        "max_model_len": models.get_states()[name].context_length,
    }


def list_models(models: Models) -> ModelList:
    """Return the list of all models."""
    return {"object": "list", "data": [describe_model(models, name) for name in models.names]}
