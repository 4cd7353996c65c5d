"""Extractive question answering: the spans of a context that answer a question."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import ANSWER, Signature, TensorSpec
from hf_runtime.contract.task_spec import TaskSpec
from hf_runtime.contract.validation import StrictModel


def _refuse_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


class Question(StrictModel):
    """Question and the context in which to find the answer."""

    question: Annotated[str, AfterValidator(_refuse_blank)]
    context: Annotated[str, AfterValidator(_refuse_blank)]


class QuestionAnsweringParameters(Parameters):
    """Parameters of question answering. Lengths are in tokens.

    A window contains the question, special tokens and a part of the context. A context that does not fit in one window
    is split into several windows that overlap.

    `max_question_len` has no default. The pipeline of transformers documented a limit of 64, but applied it only with
    slow tokenizers, so its answers were those to the whole question.
    """

    top_k: int = Field(
        1, ge=1, description="Maximum number of answers to return. If more than 1, the result is a list."
    )
    max_answer_len: int = Field(15, ge=1, description="Maximum length of an answer in tokens.")
    max_seq_len: int | None = Field(
        None,
        ge=1,
        description=(
            "Maximum length of a window in tokens, including the question. If unset, 384 or the model's limit, "
            "whichever is less."
        ),
    )
    doc_stride: int | None = Field(
        None, ge=0, description="Overlap of two windows in tokens. If unset, 128, or less in small windows."
    )
    max_question_len: int | None = Field(
        None,
        ge=1,
        description=(
            "Maximum length of the question in tokens. A longer question is truncated. If unset, the question is not "
            "truncated."
        ),
    )
    handle_impossible_answer: bool = Field(
        False, description="Allow an empty answer, which means that the context does not contain an answer."
    )
    align_to_words: bool = Field(True, description="Let answers start and end at word boundaries.")


@answer_type
class Span(TypedDict):
    """Answer, which is `context[start:end]`. It is empty if the model finds none."""

    score: float
    start: int
    end: int
    answer: str


_QUESTION = TensorSpec("question", "BYTES", (-1,))
_CONTEXT = TensorSpec("context", "BYTES", (-1,))

SPEC = TaskSpec(
    name="question-answering",
    instance=Question,
    answer=Span | list[Span],
    parameters=QuestionAnsweringParameters,
    example={"instances": [{"question": "Who founded Apple?", "context": "Apple was founded by Steve Jobs."}]},
    signature=Signature((_QUESTION, _CONTEXT), ((_QUESTION.name, _CONTEXT.name),), (ANSWER,)),
    heads=("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
    adapter_type="QUESTION_ANS",
)
