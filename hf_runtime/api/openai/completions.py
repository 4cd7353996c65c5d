"""`completions`: https://platform.openai.com/docs/api-reference/completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from hf_runtime.api.openai.generation import SamplingRequest
from hf_runtime.api.openai.logprobs import CompletionLogprobs
from hf_runtime.api.openai.stream import head
from hf_runtime.api.openai.text import TextsField
from hf_runtime.api.openai.usage import Usage
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.tasks import GENERATIVE_TASKS
from hf_runtime.settings import Task


class CompletionRequest(SamplingRequest):
    """Texts to be continued; choice `n * i + j` is the j-th continuation of prompt i."""

    tasks: ClassVar[tuple[Task, ...]] = GENERATIVE_TASKS

    prompt: TextsField
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise InvalidRequest("every answer is returned, so it can only equal n", field="best_of")
        if self.echo and self.logprobs is not None:
            raise InvalidRequest("those of the prompt, which echo asks for, are not offered", field="logprobs")
        return self

    @property
    def size(self) -> tuple[str, int]:
        many = len(self.prompt.texts)
        return "prompt" if many > self.n else "n", many * self.n

    @property
    def items(self) -> list[tuple[Any, dict[str, Any]]]:
        parameters = self.parameters()
        return [(prompt, choice) for prompt in self.prompt.texts for choice in self.choices(parameters)]

    def place(self, index: int) -> str:
        return self.prompt.place("prompt", index // self.n)

    @property
    def names(self) -> Mapping[str, str]:
        return {**super().names, "max_new_tokens": "max_tokens"}

    def parameters(self) -> dict[str, Any]:
        parameters = {**super().parameters(), "max_new_tokens": self.max_tokens, "return_full_text": self.echo}
        return parameters if self.logprobs is None else {**parameters, "logprobs": self.logprobs}

    def response(self, answers: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
        """All answers, as OpenAI's completion object."""
        usage = Usage(self.n)
        choices = []
        for index, (answer,) in enumerate(answers):
            usage.add(index, answer)
            choices.append(_choice(index, answer, CompletionLogprobs()))
        return {**self.opening(), "choices": choices, "usage": usage.counts(), "system_fingerprint": None}

    def opening(self) -> dict[str, Any]:
        """What each chunk of a stream begins with."""
        return head("cmpl", "text_completion", self.model)


class CompletionDeltas:
    """The choices of a stream's chunks."""

    def __init__(self) -> None:
        self._logprobs: defaultdict[int, CompletionLogprobs] = defaultdict(CompletionLogprobs)

    def __call__(self, index: int, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if delta["generated_text"] or delta.get("logprobs") or "finish_reason" in delta:
            yield _choice(index, delta, self._logprobs[index])


def _choice(index: int, delta: Mapping[str, Any], logprobs: CompletionLogprobs) -> dict[str, Any]:
    return {
        "index": index,
        "text": delta["generated_text"],
        "logprobs": logprobs.render(delta["logprobs"]) if "logprobs" in delta else None,
        "finish_reason": delta.get("finish_reason"),
    }
