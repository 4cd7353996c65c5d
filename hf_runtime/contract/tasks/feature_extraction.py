"""Feature extraction: one vector for each token of a text, or one for the whole text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters, Truncation
from hf_runtime.contract.signature import TEXT_OR_TOKENS_TO_JSON
from hf_runtime.contract.task_spec import TaskSpec

Pooling = Literal["none", "mean", "cls", "max", "last_token"]


class FeatureExtractionParameters(Parameters):
    """Parameters of feature extraction."""

    pooling: Pooling | None = Field(
        None,
        description=(
            "Method that combines the token vectors into one vector. If unset, `POOLING` or the model's files decide."
        ),
    )
    normalize: bool | None = Field(
        None,
        description=(
            "Scale the vector to length 1, which needs pooling. If unset, `NORMALIZE` or the model's files decide."
        ),
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        description=(
            "Number of values to keep from the start of the vector, if the model was trained for it. If unset, all."
        ),
    )
    truncation: Truncation = False
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        description=(
            "Keep only this number of tokens at the start of the input, with the special tokens. -1 keeps as many as "
            "the model reads, as `truncation` does."
        ),
    )
    details: bool = Field(False, description="Return an object with the vector and the number of input tokens.")


@answer_type
class Embedding(TypedDict):
    """Vector of a text and its number of tokens, for requests with `details`."""

    embedding: list[float]
    prompt_tokens: int


SPEC = TaskSpec(
    name="feature-extraction",
    instance=str | list[int],
    answer=list[float] | list[list[list[float]]] | Embedding,
    parameters=FeatureExtractionParameters,
    example={"instances": ["A cat sits on the mat."]},
    signature=TEXT_OR_TOKENS_TO_JSON,
    heads=("Model",),
    adapter_type="FEATURE_EXTRACTION",
    kserve_names=("text-embedding",),
)
