"""Token classification: the entities of a text, or a label for each of its tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters, Truncation
from hf_runtime.contract.task_spec import TaskSpec

AggregationStrategy = Literal["none", "simple", "first", "average", "max"]


class TokenClassificationParameters(Parameters):
    """Parameters of token classification."""

    aggregation_strategy: AggregationStrategy = Field(
        "none", description="Method that joins tokens into entities. If not given, `AGGREGATION_STRATEGY` applies."
    )
    ignore_labels: list[str] = Field(["O"], description="Labels to leave out of the answer.")
    stride: int | None = Field(
        None,
        ge=0,
        description=(
            "Split an input that is longer than the model's limit into windows that overlap by this many tokens. It "
            "takes precedence over `truncation`. If unset, inputs are not split."
        ),
    )
    truncation: Truncation = False


@answer_type
class TokenLabel(TypedDict):
    """Token with its label.

    `start` and `end` are positions of characters, or null if the tokenizer does not report them.
    """

    entity: str
    score: float
    index: int
    word: str
    start: int | None
    end: int | None


@answer_type
class EntityGroup(TypedDict):
    """Entity of one or more tokens, for requests with an aggregation strategy."""

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
