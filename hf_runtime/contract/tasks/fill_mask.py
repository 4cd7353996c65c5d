"""Fill-mask: the most likely tokens for each mask token of a text."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters, Truncation
from hf_runtime.contract.task_spec import TaskSpec


def _make_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FillMaskParameters(Parameters):
    """Parameters of fill-mask."""

    top_k: int = Field(
        5, ge=1, description="Number of words to return for each mask, at most the size of the vocabulary."
    )
    targets: Annotated[Annotated[list[str], Field(min_length=1)] | None, BeforeValidator(_make_list)] = Field(
        None, description="Words to choose from: one string or a list. If unset, the whole vocabulary."
    )
    truncation: Truncation = False


@answer_type
class FilledMask(TypedDict):
    """Token for a mask, and the text with this token."""

    score: float
    token: int
    token_str: str
    sequence: str


SPEC = TaskSpec(
    name="fill-mask",
    instance=str,
    answer=list[FilledMask] | list[list[FilledMask]],
    parameters=FillMaskParameters,
    example={"instances": ["Paris is the [MASK] of France."]},
    heads=("ForMaskedLM", "WithLMHeadModel"),
)
