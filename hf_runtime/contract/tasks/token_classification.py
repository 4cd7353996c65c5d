"""Token classification: entities of a text, or a label for each of its tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.task_spec import TaskSpec

AggregationStrategy = Literal["none", "simple", "first", "average", "max"]


class TokenClassificationParameters(Parameters):
    """Parameters of token classification.

    A text that is longer than the model's limit is split into windows that overlap by `stride` tokens; `stride` wins
    over `truncation`.
    """

    aggregation_strategy: AggregationStrategy = "none"
    ignore_labels: list[str] = Field(["O"])
    stride: int | None = Field(None, ge=0)
    truncation: bool = False


@with_config(ConfigDict(extra="forbid"))
class TokenLabel(TypedDict):
    """A token with its label; start and end are characters, null if the tokenizer does not know them."""

    entity: str
    score: float
    index: int
    word: str
    start: int | None
    end: int | None


@with_config(ConfigDict(extra="forbid"))
class EntityGroup(TypedDict):
    """An entity of several tokens, with an aggregation strategy."""

    entity_group: str
    score: float
    word: str
    start: int | None
    end: int | None


SPEC = TaskSpec(
    name="token-classification",
    instance=str,
    answer=list[TokenLabel | EntityGroup],
    parameters=TokenClassificationParameters,
    example={"instances": ["Apple Inc. was founded by Steve Jobs in Cupertino, California."]},
    heads=("ForTokenClassification",),
    adapter_type="TOKEN_CLS",
)
