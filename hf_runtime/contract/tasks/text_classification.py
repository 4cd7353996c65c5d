"""Text classification: labels with scores for a text or a pair of texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters, Truncation
from hf_runtime.contract.signature import ANSWER, TEXT, Signature, TensorSpec
from hf_runtime.contract.task_spec import TaskSpec
from hf_runtime.contract.validation import StrictModel


class TextPair(StrictModel):
    """Two texts that the model classifies as one input, such as a premise and a hypothesis."""

    text: str
    text_pair: str | None = None


class TextClassificationParameters(Parameters):
    """Parameters of text classification."""

    top_k: int | None = Field(
        1, ge=1, description="Maximum number of labels to return, best first. `null` returns all labels."
    )
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = Field(
        None, description="Function that turns logits into scores. If unset, the model's head decides."
    )
    truncation: Truncation = False


@answer_type
class Label(TypedDict):
    """Label with its score."""

    label: str
    score: float


_TEXT_PAIR = TensorSpec("text_pair", "BYTES", (-1,))
_LABEL = TensorSpec("label", "BYTES", (-1, -1))
_SCORE = TensorSpec("score", "FP32", (-1, -1))

SPEC = TaskSpec(
    name="text-classification",
    instance=str | TextPair,
    answer=list[Label],
    parameters=TextClassificationParameters,
    example={"instances": ["I love this movie! It's fantastic."]},
    signature=Signature((TEXT, _TEXT_PAIR), ((TEXT.name,), (TEXT.name, _TEXT_PAIR.name)), (ANSWER, _LABEL, _SCORE)),
    heads=("ForSequenceClassification",),
    adapter_type="SEQ_CLS",
    kserve_names=("sequence-classification",),
)
