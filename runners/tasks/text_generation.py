"""Text generation: a prompt continued, or a chat answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_runtime.contract.chat import Chat, parse_chat
from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.tasks.text_generation import SPEC, TextGenerationParameters
from runners.engines.generation_request import GenerationRequest, SequenceOutput, TokenLogprob
from runners.engines.generator import DeltaMaker
from runners.engines.runner import Job
from runners.storage.fetch import read_config
from runners.tasks.chat_prompt import prompt_tokens
from runners.tasks.generation import GenerationRunner
from runners.tasks.tool_call_reader import ToolCallReader
from runners.tasks.tool_calls import ToolSyntax


@dataclass(frozen=True, slots=True)
class _Context:
    """What an answer is made of besides the new text.

    Attributes:
        before: what stands before it: a prompt or a chat; None if it was not asked for.
        echo: what a stream begins with.
        tools: names of the functions that it may call.
    """

    before: str | Chat | None
    echo: str
    details: bool
    tools: tuple[str, ...]


class TextGenerationRunner(GenerationRunner[TextGenerationParameters, _Context]):
    """The answer is a list of `{"generated_text": str}`, one for each sequence.

    The full text of a chat is the list of its messages, with the assistant's at the end. Calls of a chat's tools are
    told apart from the text: `"tool_calls": [{"name": str, "arguments": str}]`, the arguments as JSON.
    """

    spec = SPEC
    parameters_type = TextGenerationParameters
    auto_class = "AutoModelForCausalLM"

    def load(self) -> None:
        # Before any weights are fetched; half of such a model would load, and write nonsense.
        config = read_config(self.settings)
        if config is not None and config.get("is_encoder_decoder"):
            raise LoadError(
                f"{self.settings.shown_uri} is an encoder-decoder model ({config.get('model_type')}), "
                "which cannot do text-generation; set TASK to text2text-generation."
            )
        super().load()
        self._tool_syntax = ToolSyntax(self.generator.tokenizer)

    def prepare(self, instance: Any, parameters: TextGenerationParameters) -> Job[GenerationRequest, _Context]:
        if _is_tokens(instance):
            input_ids = token_ids(instance, self.generator.input_vocabulary)
            before: str | Chat = str(self.generator.tokenizer.decode(input_ids, skip_special_tokens=True))
        else:
            before = _parse(instance)
            tokenizer = self.generator.tokenizer
            input_ids = self._tokens(before) if isinstance(before, str) else prompt_tokens(tokenizer, before)
        wanted = self.wanted_tokens(parameters, len(input_ids), "the prompt")
        input_ids, room = self._fitted(input_ids, wanted, parameters.truncation)
        grammar = self._tool_grammar(before, parameters) if isinstance(before, Chat) else None
        continues = isinstance(before, str) or before.is_begun
        rows = self.rows(input_ids, min(wanted, room), parameters, continues=continues, grammar=grammar)
        asked = parameters.return_full_text
        full = self.settings.return_full_text if asked is None else asked
        context = _Context(
            before=before if full else None,
            echo=before if asked and isinstance(before, str) else "",
            details=parameters.details,
            tools=() if isinstance(before, str) or before.choice == "none" else tuple(before.tool_names),
        )
        return Job(rows, context)

    def finish(self, job: Job[GenerationRequest, _Context], outputs: Sequence[SequenceOutput]) -> Any:
        return [self._answer(job, written) for written in outputs]

    def deltas(self, job: Job[GenerationRequest, _Context], number: int) -> DeltaMaker:
        said = super().deltas(job, number)
        if not job.context.tools:
            return said
        reader = self._tool_syntax.reader(job.context.tools)

        def delta(text: str, logprobs: list[TokenLogprob], written: SequenceOutput | None) -> dict[str, Any] | None:
            content, calls = _read(reader, text, ended=written is not None)
            if not (content or calls or logprobs or written):
                return None
            return (said(content, logprobs, written) or {}) | ({"tool_calls": calls} if calls else {})

        return delta

    def _answer(self, job: Job[GenerationRequest, _Context], written: SequenceOutput) -> dict[str, Any]:
        context, text, calls = job.context, written.text, {}
        if context.tools:
            text, found = _read(self._tool_syntax.reader(context.tools), written.text, ended=True)
            calls = {"tool_calls": found} if found else {}
        details = self.details(job, written) if context.details else {}
        return {"generated_text": _joined(context.before, text, calls), **calls, **details}

    def _tool_grammar(self, chat: Chat, parameters: TextGenerationParameters) -> Any:
        """What keeps the calls of a chat's tools valid; None if none is to be called."""
        grammar = self._tool_syntax.grammar(chat.usable_tools, chat.choice, chat.parallel_tool_calls)
        if grammar is None:
            return None
        if parameters.response_format not in (None, {"type": "text"}):
            raise InvalidRequest(
                "an answer that may call tools has a form of its own", field="parameters.response_format"
            )
        return self.generator.grammars.compile(grammar, "tools")

    def echo(self, context: _Context) -> str:
        return context.echo

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self.generator.tokenizer
        # Not verbose: it would warn of the length, which is checked later.
        input_ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        if not input_ids:
            if tokenizer.bos_token_id is None:
                raise InvalidRequest("the prompt is empty, and this model has no token to begin a text with")
            return [tokenizer.bos_token_id]
        return input_ids

    def _fitted(self, input_ids: list[int], wanted: int, truncation: bool) -> tuple[list[int], int]:
        """The prompt as far as the model can read it, and the number of new tokens for which there is room.

        Raises:
            InvalidRequest: it fills the model's context and must not be cut; with both lengths.
        """
        limit = self.generator.max_length
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
            head = input_ids[:1] if input_ids[0] == self.generator.tokenizer.bos_token_id else []
            input_ids = head + input_ids[len(input_ids) - kept + len(head) :]
        return input_ids, limit - len(input_ids)


def _is_tokens(instance: Any) -> bool:
    return isinstance(instance, list) and bool(instance) and isinstance(instance[0], int)


def _parse(instance: Any) -> str | Chat:
    if isinstance(instance, str):
        return instance
    if not isinstance(instance, list | dict):
        raise InvalidRequest("must be a string, a list of tokens or of messages, or an object with messages")
    return parse_chat(instance)


def _read(reader: ToolCallReader, text: str, *, ended: bool) -> tuple[str, list[dict[str, str]]]:
    """Content and calls of the next part of a text."""
    found = reader.feed(text)
    if ended:
        found += reader.end()
    content = "".join(part for part in found if isinstance(part, str))
    return content, [asdict(part) for part in found if not isinstance(part, str)]


def _joined(before: str | Chat | None, text: str, calls: dict[str, Any]) -> Any:
    """The generated text as the transformers pipeline presents it."""
    if before is None:
        return text
    if isinstance(before, str):
        return before + text
    messages = [message.turn() for message in before.messages]
    if before.is_begun:
        messages[-1]["content"] += text
        return messages
    return [*messages, {"role": "assistant", "content": text, **calls}]


#: Computes the task.
RUNNER = TextGenerationRunner
