"""Text generation: continue a prompt, or answer a chat."""

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
from runners.tasks.chat_prompt import tokenize_chat
from runners.tasks.generation import GenerationRunner
from runners.tasks.tool_call_reader import ToolCallReader
from runners.tasks.tool_calls import ToolSyntax


@dataclass(frozen=True, slots=True)
class _Context:
    """Parts of an answer besides the new text.

    Attributes:
        prompt: prompt or chat to return before the new text; None without `return_full_text`.
        echo: text that a stream begins with.
        details: whether to add the details.
        tools: names of the functions that the answer may call.
    """

    prompt: str | Chat | None
    echo: str
    details: bool
    tools: tuple[str, ...]


class TextGenerationRunner(GenerationRunner[TextGenerationParameters, _Context]):
    """Runner whose answer is a list of `{"generated_text": str}`, one per sequence.

    The full text of a chat is the list of its messages, with the assistant's at the end. Tool calls are separated from
    the text as `"tool_calls": [{"name": str, "arguments": str}]`, with the arguments as JSON.
    """

    spec = SPEC
    parameters_type = TextGenerationParameters
    auto_class = "AutoModelForCausalLM"

    def load(self) -> None:
        # Checked before any weights are fetched. Half of such a model would load, and generate nonsense.
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
            prompt: str | Chat = self._decode(input_ids, parameters)
        else:
            prompt = _parse(instance)
            tokenizer = self.generator.tokenizer
            input_ids = self._tokenize(prompt) if isinstance(prompt, str) else tokenize_chat(tokenizer, prompt)
        kept = self._keep_last_tokens(input_ids, parameters.truncate_prompt_tokens, is_text=isinstance(instance, str))
        if kept is not input_ids and isinstance(prompt, str):
            input_ids, prompt = kept, self._decode(kept, parameters)
        input_ids = kept
        wanted = self.resolve_max_new_tokens(parameters, len(input_ids), "the prompt")
        truncation = parameters.truncation or parameters.truncate_prompt_tokens == -1
        input_ids, free = self._fit_context(input_ids, wanted, truncation)
        grammar = self._create_tool_grammar(prompt, parameters) if isinstance(prompt, Chat) else None
        continues = isinstance(prompt, str) or prompt.continues_answer
        rows = self.build_rows(input_ids, min(wanted, free), parameters, continues=continues, grammar=grammar)
        requested = parameters.return_full_text
        full = self.settings.return_full_text if requested is None else requested
        context = _Context(
            prompt=prompt if full else None,
            echo=prompt if requested and isinstance(prompt, str) else "",
            details=parameters.details,
            tools=() if isinstance(prompt, str) or prompt.choice == "none" else tuple(prompt.tool_names),
        )
        return Job(rows, context)

    def finish(self, job: Job[GenerationRequest, _Context], outputs: Sequence[SequenceOutput]) -> Any:
        return [self._build_answer(job, output) for output in outputs]

    def create_delta_maker(self, job: Job[GenerationRequest, _Context], number: int) -> DeltaMaker:
        make_text_delta = super().create_delta_maker(job, number)
        if not job.context.tools:
            return make_text_delta
        reader = self._tool_syntax.reader(job.context.tools)

        def make_delta(text: str, logprobs: list[TokenLogprob], output: SequenceOutput | None) -> dict[str, Any] | None:
            content, calls = _split_calls(reader, text, ended=output is not None)
            if not (content or calls or logprobs or output):
                return None
            return (make_text_delta(content, logprobs, output) or {}) | ({"tool_calls": calls} if calls else {})

        return make_delta

    def _build_answer(self, job: Job[GenerationRequest, _Context], output: SequenceOutput) -> dict[str, Any]:
        context, text, calls = job.context, output.text, {}
        if context.tools:
            text, found = _split_calls(self._tool_syntax.reader(context.tools), output.text, ended=True)
            calls = {"tool_calls": found} if found else {}
        details = self.build_details(job, output) if context.details else {}
        return {"generated_text": _join_prompt(context.prompt, text, calls), **calls, **details}

    def _create_tool_grammar(self, chat: Chat, parameters: TextGenerationParameters) -> Any:
        """Compile the grammar that makes tool calls valid; None if no tool may be called."""
        grammar = self._tool_syntax.grammar(chat.usable_tools, chat.choice, chat.parallel_tool_calls)
        if grammar is None:
            return None
        if parameters.response_format not in (None, {"type": "text"}):
            raise InvalidRequest(
                "an answer that may call tools has a form of its own", field="parameters.response_format"
            )
        if parameters.structured_outputs is not None:
            raise InvalidRequest(
                "an answer that may call tools has a form of its own", field="parameters.structured_outputs"
            )
        return self.generator.grammars.compile(grammar, "tools")

    def get_echo(self, context: _Context) -> str:
        return context.echo

    def _tokenize(self, text: str) -> list[int]:
        tokenizer = self.generator.tokenizer
        # Not verbose, because the tokenizer would warn about the length, which is checked later.
        input_ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        if not input_ids:
            if tokenizer.bos_token_id is None:
                raise InvalidRequest("the prompt is empty, and this model has no token to begin a text with")
            return [tokenizer.bos_token_id]
        return input_ids

    def _decode(self, input_ids: list[int], parameters: TextGenerationParameters) -> str:
        skips = parameters.skip_special_tokens
        return str(self.generator.tokenizer.decode(input_ids, skip_special_tokens=skips))

    def _keep_last_tokens(self, input_ids: list[int], count: int | None, *, is_text: bool) -> list[int]:
        """Return the last `count` tokens; the token before a text stays the first one."""
        if count is None or count < 0 or count >= len(input_ids):
            return input_ids
        if count == 0:
            raise InvalidRequest("must be -1 or at least 1", field="parameters.truncate_prompt_tokens")
        head = input_ids[:1] if is_text and input_ids[0] == self.generator.tokenizer.bos_token_id else []
        return head + input_ids[len(input_ids) - count + len(head) :]

    def _fit_context(self, input_ids: list[int], wanted: int, truncation: bool) -> tuple[list[int], int]:
        """Fit the prompt into the model's context, and return it with the free tokens.

        Args:
            wanted: maximum number of new tokens that the request sets.
            truncation: cut the prompt if it is too long.

        Raises:
            InvalidRequest: the prompt fills the context and must not be cut; the message contains both lengths.
        """
        limit = self.generator.max_length
        if limit is None:
            return input_ids, wanted
        if len(input_ids) + min(wanted, 1) > limit:
            if not truncation:
                raise InvalidRequest(
                    f"the prompt has {len(input_ids)} tokens and the model's context {limit}, which leaves no room for "
                    "an answer: shorten it, or set parameters.truncation to true"
                )
            # Keep the end of the prompt, and the token that all training texts begin with. A long answer gets at most
            # half of the context.
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


def _split_calls(reader: ToolCallReader, text: str, *, ended: bool) -> tuple[str, list[dict[str, str]]]:
    """Split the next part of a text into content and tool calls."""
    parts = reader.feed(text)
    if ended:
        parts += reader.end()
    content = "".join(part for part in parts if isinstance(part, str))
    return content, [asdict(part) for part in parts if not isinstance(part, str)]


def _join_prompt(prompt: str | Chat | None, text: str, calls: dict[str, Any]) -> Any:
    """Return prompt and text in the format of the transformers pipeline."""
    if prompt is None:
        return text
    if isinstance(prompt, str):
        return prompt + text
    messages = [message.turn() for message in prompt.messages]
    if prompt.continues_answer:
        messages[-1]["content"] += text
        return messages
    return [*messages, {"role": "assistant", "content": text, **calls}]


#: Runner of this task.
RUNNER = TextGenerationRunner
