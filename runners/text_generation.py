"""Text generation: a prompt continued, or a chat answered."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import AutoModelForCausalLM

from errors import InvalidRequest
from generation.request import GenerationRequest, Written
from loading import LoadError
from loading.storage import read_config
from runners.base import Job
from runners.generation import GenerationParameters, GenerationRunner
from runners.parameters import describe, token_ids


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
    """`return_full_text` puts the prompt before the new text; unset, answers do as the operator says, streams no."""

    return_full_text: bool | None = None


@dataclass(frozen=True, slots=True)
class _Context:
    """What an answer is made of besides the new text.

    Attributes:
        before: what stands before it: a prompt or a chat; None if it was not asked for.
        echo: what a stream begins with.
    """

    before: str | Chat | None
    echo: str
    details: bool


class TextGenerationRunner(GenerationRunner[TextGenerationParameters, _Context]):
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

    def prepare(self, instance: Any, parameters: TextGenerationParameters) -> Job[GenerationRequest, _Context]:
        if _is_tokens(instance):
            input_ids = token_ids(instance, self.model.vocabulary)
            before: str | Chat = str(self.pretrained.tokenizer.decode(input_ids, skip_special_tokens=True))
        else:
            before = _parse(instance)
            input_ids = self._tokens(before) if isinstance(before, str) else self._chat_tokens(before)
        wanted = self.wanted_tokens(parameters, len(input_ids), "the prompt")
        input_ids, room = self._fitted(input_ids, wanted, parameters.truncation)
        rows = self.rows(input_ids, min(wanted, room), parameters, continues=isinstance(before, str))
        asked = parameters.return_full_text
        full = self.settings.return_full_text if asked is None else asked
        context = _Context(
            before=before if full else None,
            echo=before if asked and isinstance(before, str) else "",
            details=parameters.details,
        )
        return Job(rows, context)

    def finish(self, job: Job[GenerationRequest, _Context], outputs: Rows[Written]) -> Any:
        return [
            {"generated_text": _joined(job.context.before, written.text)}
            | (self.details(job, written) if job.context.details else {})
            for written in outputs
        ]

    def echo(self, context: _Context) -> str:
        return context.echo

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


def _is_tokens(instance: Any) -> bool:
    return isinstance(instance, list) and bool(instance) and isinstance(instance[0], int)


def _parse(instance: Any) -> str | Chat:
    match instance:
        case str():
            return instance
        case list():
            instance = {"messages": instance}
        case dict():
            pass
        case _:
            raise InvalidRequest("must be a string, a list of tokens or of messages, or an object with messages")
    try:
        return Chat.model_validate(instance)
    except ValidationError as error:
        raise InvalidRequest(describe(error, "").removeprefix(".")) from None


def _joined(before: str | Chat | None, text: str) -> Any:
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
