"""`completions`: https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any, ClassVar, Literal, NotRequired
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from hf_runtime.api.openai.generation import FinishReason, GeneratedAnswer, SamplingRequest
from hf_runtime.api.openai.logprobs import (
    CompletionLogprobs,
    CompletionLogprobsRenderer,
    PromptLogprobs,
    render_prompt_logprobs,
)
from hf_runtime.api.openai.text import TextsField
from hf_runtime.api.openai.usage import TokenUsage, UsageCounter
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.settings import Task

#: Alternatives that the runner reports for a token, at most.
_MAX_LOGPROBS = 20


@answer_type
class CompletionChoice(TypedDict):
    """A continuation of a prompt; in a stream, the next delta of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    prompt_logprobs: NotRequired[PromptLogprobs]


@answer_type
class Completion(GeneratedAnswer):
    """Continuations of all prompts; in a stream, an event."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: NotRequired[TokenUsage | None]


class CompletionRequest(SamplingRequest):
    """Prompts to continue; choice `n * i + j` is the j-th continuation of prompt i."""

    tasks: ClassVar[tuple[Task, ...]] = GENERATIVE_TASKS

    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "add_special_tokens": (True,),
        "truncation_side": ("left",),
    }

    prompt: TextsField
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=_MAX_LOGPROBS)

    @property
    def echo_logprobs(self) -> int | None:
        """Alternatives of each token of the prompt in `logprobs`; None without them."""
        return self.logprobs if self.echo else None

    @property
    def item_count(self) -> tuple[str, int]:
        prompts = len(self.prompt.texts)
        return "prompt" if prompts > self.n else "n", prompts * self.n

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        parameters = self.make_parameters()
        return [(prompt, choice) for prompt in self.prompt.texts for choice in self.vary_seed(parameters)]

    def locate(self, index: int) -> str:
        return self.prompt.locate("prompt", index // self.n)

    @property
    def field_names(self) -> Mapping[str, str]:
        return {**super().field_names, "max_new_tokens": "max_tokens"}

    def make_parameters(self) -> dict[str, Any]:
        parameters = {**super().make_parameters(), "max_new_tokens": self.max_tokens, "return_full_text": self.echo}
        if self.logprobs is not None and self.max_tokens:
            parameters["logprobs"] = self.logprobs
        if self.echo_logprobs is not None:
            parameters["prompt_logprobs"] = max(self.echo_logprobs, self.prompt_logprobs or 0)
        return parameters

    def render(self, answers: Sequence[Sequence[Mapping[str, Any]]]) -> Completion:
        """Return the completion object with all answers."""
        usage = UsageCounter(self.n)
        choices = []
        for index, (answer,) in enumerate(answers):
            usage.add(index, answer)
            choice = _render_choice(index, answer, CompletionLogprobsRenderer(), self.echo_logprobs)
            if self.prompt_logprobs is not None:
                choice["prompt_logprobs"] = render_prompt_logprobs(answer["prompt_logprobs"], self.prompt_logprobs)
            choices.append(choice)
        return {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time()),
            "model": self.model,
            "choices": choices,
            "usage": usage.count_tokens(),
            "system_fingerprint": None,
        }

    def make_empty_chunk(self) -> Completion:
        """Return the fields that all events of a stream share, without choices."""
        return {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time()),
            "model": self.model,
            "choices": [],
            "system_fingerprint": None,
        }


class CompletionDeltas:
    """Renderer of the choices of a stream's events."""

    def __init__(self) -> None:
        self._logprobs: defaultdict[int, CompletionLogprobsRenderer] = defaultdict(CompletionLogprobsRenderer)

    def __call__(self, index: int, delta: Mapping[str, Any]) -> Iterator[CompletionChoice]:
        if delta["generated_text"] or delta.get("logprobs") or "finish_reason" in delta:
            # In a stream, only echo asks for those of the prompt.
            echo = None if "prompt_logprobs" not in delta else _MAX_LOGPROBS
            yield _render_choice(index, delta, self._logprobs[index], echo)


def _render_choice(
    index: int, delta: Mapping[str, Any], renderer: CompletionLogprobsRenderer, echo: int | None
) -> CompletionChoice:
    logprobs = None
    if echo is not None:
        text, tokens = delta["generated_text"], delta.get("logprobs") or ()
        logprobs = renderer.render_echo(delta["prompt_logprobs"], echo, text, tokens)
    elif "logprobs" in delta:
        logprobs = renderer.render(delta["logprobs"])
    return {
        "index": index,
        "text": delta["generated_text"],
        "logprobs": logprobs,
        "finish_reason": delta.get("finish_reason"),
    }
