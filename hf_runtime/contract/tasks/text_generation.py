"""Text generation: the continuation of a prompt, or the answer to a chat."""

from __future__ import annotations

from pydantic import Field

from hf_runtime.contract.chat import Chat, Message
from hf_runtime.contract.generation import GeneratedText, GenerationParameters
from hf_runtime.contract.signature import TEXT_OR_TOKENS_TO_JSON
from hf_runtime.contract.task_spec import TaskSpec


class TextGenerationParameters(GenerationParameters):
    """Parameters of text generation."""

    return_full_text: bool | None = Field(
        None,
        description=(
            "Return the prompt and the generated text. If unset, `RETURN_FULL_TEXT` decides for answers, and streams "
            "contain only the generated text."
        ),
    )


SPEC = TaskSpec(
    name="text-generation",
    instance=str | list[int] | list[Message] | Chat,
    answer=list[GeneratedText],
    parameters=TextGenerationParameters,
    example={"instances": ["The capital of France is"], "parameters": {"max_new_tokens": 20}},
    signature=TEXT_OR_TOKENS_TO_JSON,
    generative=True,
    heads=("ForCausalLM", "LMHeadModel"),
    adapter_type="CAUSAL_LM",
)
