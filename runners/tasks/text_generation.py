"""Text generation: continue a prompt, or answer a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_runtime.contract.chat import Chat, parse_chat
from hf_runtime.contract.errors import ContextLengthExceeded, InvalidRequest, LoadError
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.tasks.text_generation import SPEC, TextGenerationParameters
from runners.engines.generation_request import GenerationRequest, SequenceOutput, TokenLogprob
from runners.engines.generator import DeltaMaker
from runners.engines.runner import Job
from runners.storage.fetch import read_config
from runners.tasks.answers.answer_format import AnswerFormat, AnswerPlan
from runners.tasks.answers.parts import AnswerReader, ParsedToolCall, Reasoning
from runners.tasks.chat_prompt import tokenize_chat
from runners.tasks.generation import GenerationRunner


@dataclass(frozen=True, slots=True)
class _Context:
    """Parts of an answer besides the new text.

    Attributes:
        prompt: prompt or chat to return before the new text; None without `return_full_text`.
        echo: text that a stream begins with.
        details: whether to add the details.
        plan: form of the answer; None if all of it is content.
    """

    prompt: str | Chat | None
    echo: str
    details: bool
    plan: AnswerPlan | None


class TextGenerationRunner(GenerationRunner[TextGenerationParameters, _Context]):
    """Runner whose answer is a list of `{"generated_text": str}`, one per sequence.

    The full text of a chat is the list of its messages, with the assistant's at the end. Tool calls are separated from
    the text as `"tool_calls": [{"name": str, "arguments": str}]`, with the arguments as JSON, and reasoning as
    `"reasoning": str`.
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
        self._answers = AnswerFormat(
            self.generator.tokenizer,
            name=self.settings.name,
            reasoning_parser=self.settings.reasoning_parser,
            tool_parser=self.settings.tool_parser,
            vocabulary=self.generator.vocabulary,
        )

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
        plan = self._answers.plan(prompt, input_ids) if isinstance(prompt, Chat) else None
        rows = self.build_rows(
            input_ids,
            min(wanted, free),
            parameters,
            continues=isinstance(prompt, str) or prompt.continues_answer,
            grammar=self._create_grammar(plan, parameters) if plan is not None and plan.functions else None,
            wrap_grammar=plan.write_grammar if plan is not None else None,
            end_ids=self._answers.end_ids if isinstance(prompt, Chat) else frozenset(),
            visible_ids=plan.visible_ids if plan is not None else frozenset(),
        )
        requested = parameters.return_full_text
        full = self.settings.return_full_text if requested is None else requested
        context = _Context(
            prompt=prompt if full else None,
            echo=prompt if requested and isinstance(prompt, str) else "",
            details=parameters.details,
            plan=plan,
        )
        return Job(rows, context)

    def finish(self, job: Job[GenerationRequest, _Context], outputs: Sequence[SequenceOutput]) -> Any:
        return [self._build_answer(job, output) for output in outputs]

    def create_delta_maker(self, job: Job[GenerationRequest, _Context], number: int) -> DeltaMaker:
        make_text_delta = super().create_delta_maker(job, number)
        if job.context.plan is None:
            return make_text_delta
        reader = job.context.plan.create_reader()

        def make_delta(text: str, logprobs: list[TokenLogprob], output: SequenceOutput | None) -> dict[str, Any] | None:
            parts = _read_parts(reader, text, output)
            if not (parts.content or parts.others or logprobs or output):
                return None
            return (make_text_delta(parts.content, logprobs, output) or {}) | parts.others

        return make_delta

    def _build_answer(self, job: Job[GenerationRequest, _Context], output: SequenceOutput) -> dict[str, Any]:
        context, parts = job.context, _Parts(output.text)
        if context.plan is not None:
            parts = _read_parts(context.plan.create_reader(), output.text, output)
        details = self.build_details(job, output) if context.details else {}
        return {"generated_text": _join_prompt(context.prompt, parts), **parts.others, **details}

    def _create_grammar(self, plan: AnswerPlan, parameters: TextGenerationParameters) -> Any:
        """Compile the grammar that makes tool calls valid; None if the content has one, too."""
        if parameters.response_format not in (None, {"type": "text"}) or parameters.structured_outputs is not None:
            return None
        return self.generator.grammars.compile(plan.write_grammar(), "tools")

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
            ContextLengthExceeded: the prompt fills the context and must not be cut; the message contains both lengths.
        """
        limit = self.generator.max_length
        if limit is None:
            return input_ids, wanted
        if len(input_ids) + min(wanted, 1) > limit:
            if not truncation:
                raise ContextLengthExceeded(
                    f"this model's maximum context length is {limit} tokens, and the prompt has {len(input_ids)} "
                    "tokens, which leaves no room for an answer: shorten it, or set parameters.truncation to true"
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


@dataclass(slots=True)
class _Parts:
    """Content of an answer, or of a delta, and its other fields.

    Attributes:
        others: `reasoning` and `tool_calls`, if there are any.
    """

    content: str
    others: dict[str, Any] = field(default_factory=dict)


def _read_parts(reader: AnswerReader, text: str, output: SequenceOutput | None) -> _Parts:
    """Return the parts that are final with the next text, or at the end, with the output."""
    found = reader.feed(text)
    if output is not None:
        found += reader.end(cut=output.finish_reason == "length")
    others: dict[str, Any] = {}
    if reasoning := "".join(part.text for part in found if isinstance(part, Reasoning)):
        others["reasoning"] = reasoning
    if calls := [asdict(part) for part in found if isinstance(part, ParsedToolCall)]:
        others["tool_calls"] = calls
    return _Parts("".join(part for part in found if isinstance(part, str)), others)


def _join_prompt(prompt: str | Chat | None, parts: _Parts) -> Any:
    """Return prompt and text in the format of the transformers pipeline."""
    if prompt is None:
        return parts.content
    if isinstance(prompt, str):
        return prompt + parts.content
    messages = [message.turn() for message in prompt.messages]
    if prompt.continues_answer:
        messages[-1]["content"] = messages[-1].get("content", "") + parts.content
        return messages
    others = dict(parts.others)
    if "reasoning" in others:
        others["reasoning_content"] = others.pop("reasoning")
    return [*messages, {"role": "assistant", "content": parts.content, **others}]


#: Runner of this task.
RUNNER = TextGenerationRunner
