"""What the tasks take as an instance, and requests that can be sent as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from hf_runtime.api.examples import EXAMPLES
from hf_runtime.api.openapi.operation import Served
from hf_runtime.api.openapi.schemas import Json
from hf_runtime.settings import Task

_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
class TextPair(TypedDict):
    """Two texts that are read as one."""

    text: str
    text_pair: NotRequired[str | None]


@with_config(_STRICT)
class Question(TypedDict):
    """A question, and where its answer is to be found."""

    question: str
    context: str


@with_config(_STRICT)
class Turn(TypedDict):
    """A turn of a chat, as OpenAI's API writes it, its content one string."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: NotRequired[str | None]
    name: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]
    tool_call_id: NotRequired[str | None]


@with_config(_STRICT)
class Chat(TypedDict):
    """A chat, with the tools that its answer may call."""

    messages: list[Turn]
    tools: NotRequired[list[dict[str, Any]]]
    tool_choice: NotRequired[str | dict[str, Any]]
    parallel_tool_calls: NotRequired[bool]


INSTANCES: Mapping[Task, Any] = {
    "text-classification": str | TextPair,
    "token-classification": str,
    "question-answering": Question,
    "text-generation": str | list[int] | list[Turn] | Chat,
    "text2text-generation": str | list[int],
    "fill-mask": str,
    "feature-extraction": str | list[int],
}


def example(task: Task | None) -> dict[str, Any]:
    """A V1 request; what a custom pipeline reads is not known, often a text."""
    return EXAMPLES[task or "text-classification"]


def label(task: Task | None) -> str:
    """What an example is called."""
    return task or "custom-pipeline"


def of_tasks(served: Served, kinds: Mapping[Task, Any]) -> Json:
    """Whatever one of the models takes or gives."""
    options: list[Json] = []
    for task in served.tasks:
        if task is None:
            return {}
        schema = served.schemas.of(kinds[task])
        options += [option for option in schema.get("anyOf", [schema]) if option not in options]
    return options[0] if len(options) == 1 else {"anyOf": options} if options else {}
