"""Text generation: a prompt continued, or a chat answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import AutoModelForCausalLM

from errors import InvalidRequest
from loading import LoadError
from loading.storage import read_config
from runners.base import Job
from runners.generation import GenerationParameters, GenerationRunner
from runners.parameters import describe
from runners.prompt import Prompt, Sequences


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Chat(BaseModel):
    """An instance that is more than a string."""

    model_config = ConfigDict(extra="forbid", strict=True)

    messages: list[Message] = Field(min_length=1)

    @property
    def is_begun(self) -> bool:
        """Whether the chat ends with the beginning of an answer, which is to be continued."""
        return self.messages[-1].role == "assistant"


class TextGenerationParameters(GenerationParameters):
    """`return_full_text` puts the prompt before the new text."""

    return_full_text: bool = True


#: What stands before the new text: a prompt or a chat, or None if it was not asked for.
_Before = str | Chat | None


class TextGenerationRunner(GenerationRunner[TextGenerationParameters, _Before]):
    """The answer is a list of `{"generated_text": str}`, one for each sequence.

    The full text of a chat is the list of its messages, with the assistant's at the end.
    """

    parameters_type = TextGenerationParameters
    auto_class: ClassVar[Any] = AutoModelForCausalLM

    def load(self) -> None:
        # Before any weights are fetched; half of such a model would load, and write nonsense.
        config = read_config(self.settings)
        if config is not None and config.get("is_encoder_decoder"):
            raise LoadError(
                f"{self.settings.storage_uri} is an encoder-decoder model ({config.get('model_type')}), which cannot "
                "do text-generation; set TASK to text2text-generation."
            )
        super().load()

    @property
    def defaults(self) -> dict[str, Any]:
        return {**super().defaults, "return_full_text": self.settings.return_full_text}

    def prepare(self, instance: Any, parameters: TextGenerationParameters) -> Job[Prompt, _Before]:
        before = _parse(instance)
        input_ids = self._tokens(before) if isinstance(before, str) else self._chat_tokens(before)
        wanted = self.wanted_tokens(parameters, len(input_ids), "the prompt")
        input_ids, room = self._fitted(input_ids, wanted, parameters.truncation)
        row = self.row(input_ids, min(wanted, room), parameters, continues=isinstance(before, str))
        return Job([row], before if parameters.return_full_text else None)

    def finish(self, job: Job[Prompt, _Before], outputs: Sequence[Sequences]) -> Any:
        return [{"generated_text": _joined(job.context, text)} for text in self.texts(job, outputs)]

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self.pretrained.tokenizer
        # Not verbose: it would warn of the length, which is checked later.
        input_ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        if not input_ids:
            if tokenizer.bos_token_id is None:
                raise InvalidRequest("the prompt is empty, and this model has no token to begin a text with")
            return [tokenizer.bos_token_id]
        return input_ids

    def _chat_tokens(self, chat: Chat) -> list[int]:
        tokenizer = self.pretrained.tokenizer
        if not tokenizer.chat_template:
            raise InvalidRequest("messages: the model has no chat template; send a string as the prompt")
        try:
            encoding: Any = tokenizer.apply_chat_template(
                [message.model_dump() for message in chat.messages],
                add_generation_prompt=not chat.is_begun,
                continue_final_message=chat.is_begun,
                return_dict=True,
                tokenizer_kwargs={"verbose": False},
            )
        except (TemplateError, ValueError) as error:
            raise InvalidRequest(f"messages: the model's chat template does not accept them: {error}") from None
        input_ids: list[int] = encoding["input_ids"]
        if not input_ids:
            raise InvalidRequest("messages: the model's chat template makes an empty prompt of them")
        return input_ids

    def _fitted(self, input_ids: list[int], wanted: int, truncation: bool) -> tuple[list[int], int]:
        """The prompt as far as the model can read it, and the number of new tokens for which there is room.

        Raises:
            InvalidRequest: it fills the model's context and must not be cut; with both lengths.
        """
        limit = self.pretrained.max_length
        if limit is None:
            return input_ids, wanted
        if len(input_ids) >= limit:
            if not truncation:
                raise InvalidRequest(
                    f"the prompt has {len(input_ids)} tokens and the model's context {limit}, which leaves no room for "
                    "an answer: shorten it, or set parameters.truncation to true"
                )
            # The end matters most, and a beginning the model always saw; a long answer must not eat up the prompt.
            kept = limit - min(wanted, limit // 2)
            head = input_ids[:1] if input_ids[0] == self.pretrained.tokenizer.bos_token_id else []
            input_ids = head + input_ids[len(input_ids) - kept + len(head) :]
        return input_ids, limit - len(input_ids)


def _parse(instance: Any) -> str | Chat:
    match instance:
        case str():
            return instance
        case list():
            instance = {"messages": instance}
        case dict():
            pass
        case _:
            raise InvalidRequest("must be a string, a list of messages, or an object with messages")
    try:
        return Chat.model_validate(instance)
    except ValidationError as error:
        raise InvalidRequest(describe(error, "").removeprefix(".")) from None


def _joined(before: _Before, text: str) -> Any:
    """The generated text as the transformers pipeline presents it."""
    if before is None:
        return text
    if isinstance(before, str):
        return before + text
    messages = [message.model_dump() for message in before.messages]
    if before.is_begun:
        messages[-1]["content"] += text
        return messages
    return [*messages, {"role": "assistant", "content": text}]
