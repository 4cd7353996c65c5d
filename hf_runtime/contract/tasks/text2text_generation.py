"""Text-to-text generation, such as summaries and translations, with encoder-decoder models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hf_runtime.contract.generation import MAX_TOKENS, GeneratedText, GenerationParameters
from hf_runtime.contract.signature import TEXT_OR_TOKENS_TO_JSON
from hf_runtime.contract.task_spec import TaskSpec


class Text2TextGenerationParameters(GenerationParameters):
    """Parameters of text2text generation."""

    max_length: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description=(
            "Maximum length of an answer in tokens. `max_new_tokens` takes precedence. If both are unset, `MAX_LENGTH` "
            "applies."
        ),
    )
    #: Clients of OpenAI's API send it as `echo`.
    return_full_text: Literal[False] = Field(
        False,
        description="Only `false` is supported: the answer of an encoder-decoder model does not contain the input.",
    )
    prefix: str | None = Field(None, description="Text to put before the input.")
    src_lang: str | None = Field(
        None,
        description=(
            "Language code of the input, as the model's tokenizer defines it. If unset, the tokenizer's default."
        ),
    )
    tgt_lang: str | None = Field(
        None,
        description="Language code of the answer, as the model's tokenizer defines it. If unset, the model's default.",
    )


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
