"""Feature extraction: a vector for each token of a text, or one for the text."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import TEXT_OR_TOKENS_TO_JSON
from hf_runtime.contract.task_spec import TaskSpec

Pooling = Literal["none", "mean", "cls", "max", "last_token"]


class FeatureExtractionParameters(Parameters):
    """Parameters of feature extraction.

    Unset, `pooling` and `normalize` are the operator's, else the model's; `normalize` needs a pooling. `dimensions`
    keeps the first elements of a text's vector, for models that were trained for it. `details` makes the answer an
    object with the number of tokens of the text.
    """

    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: int | None = Field(None, ge=1)
    truncation: bool = False
    details: bool = False


@with_config(ConfigDict(extra="forbid"))
class Embedding(TypedDict):
    """The vector of a text, with `details`."""

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
