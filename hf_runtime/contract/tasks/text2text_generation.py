"""Text to text: summaries, translations and other answers of encoder-decoder models."""

from __future__ import annotations

from typing import Literal

from hf_runtime.contract.generation import GeneratedText, GenerationParameters
from hf_runtime.contract.signature import TEXT_OR_TOKENS_TO_JSON
from hf_runtime.contract.task_spec import TaskSpec


class Text2TextGenerationParameters(GenerationParameters):
    """Parameters of text2text generation.

    `prefix` is put before the text; `src_lang` and `tgt_lang` are language codes of the model, its defaults if unset.
    """

    #: The `echo` of an OpenAI client: an encoder-decoder model has nothing to put before its answer.
    return_full_text: Literal[False] = False
    prefix: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None


SPEC = TaskSpec(
    name="text2text-generation",
    instance=str | list[int],
    answer=list[GeneratedText],
    parameters=Text2TextGenerationParameters,
    example={"instances": ["translate English to German: How are you?"]},
    signature=TEXT_OR_TOKENS_TO_JSON,
    generative=True,
    heads=("ForConditionalGeneration", "MTModel"),
    adapter_type="SEQ_2_SEQ_LM",
)
