"""Parameters and answers that the generative tasks share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from hf_runtime.contract.parameters import Parameters

_STRICT = ConfigDict(extra="forbid")

#: More than any model generates: a typing error must not occupy a model that has no limit of its own.
_MAX_TOKENS = 1_000_000


def _as_list(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


_StopString = Annotated[str, Field(min_length=1, max_length=1000)]


class GenerationParameters(Parameters):
    """Parameters of generation; lengths are in tokens.

    `max_new_tokens` wins over `max_length`; `temperature` 0 is greedy, `top_k` 0 is off. `fill_context` generates as
    far as the model's context allows where no length is given. `logprobs` is the number of alternatives to report for
    each token. `details` adds to each answer why it ended and how many tokens it took.
    """

    max_length: int | None = Field(None, ge=1, le=_MAX_TOKENS)
    max_new_tokens: int | None = Field(None, ge=1, le=_MAX_TOKENS)
    min_new_tokens: int | None = Field(None, ge=0, le=_MAX_TOKENS)
    fill_context: bool = False
    do_sample: bool = False
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int = Field(50, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    num_return_sequences: int = Field(1, ge=1, le=64)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, max_length=1024
    )
    stop: Annotated[list[_StopString], BeforeValidator(_as_list)] = Field(default_factory=list, max_length=16)
    ignore_eos: bool = False
    response_format: dict[str, Any] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    truncation: bool = False
    details: bool = False


@with_config(_STRICT)
class CalledTool(TypedDict):
    """A call of a tool; the arguments are JSON."""

    name: str
    arguments: str


@with_config(_STRICT)
class LikelyToken(TypedDict):
    """A token with its log probability, null for one that is next to impossible, as JSON has no infinity."""

    token: str
    id: int
    logprob: float | None
    bytes: list[int] | None
    special: bool


@with_config(_STRICT)
class ScoredToken(LikelyToken):
    """A generated token, and the likeliest in its place."""

    top: list[LikelyToken]


class _Details(TypedDict):
    stop_sequence: NotRequired[str]
    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    generated_tokens: NotRequired[int]
    logprobs: NotRequired[list[ScoredToken]]
    tool_calls: NotRequired[list[CalledTool]]


@with_config(_STRICT)
class GeneratedText(_Details):
    """A generated text, or the whole chat if the full text is requested; more with `details`."""

    generated_text: str | list[dict[str, Any]]
    finish_reason: NotRequired[Literal["stop", "length"]]


@with_config(_STRICT)
class GeneratedDelta(_Details):
    """An object of a stream; the last one of an instance has a `finish_reason`."""

    index: int
    sequence: NotRequired[int]
    generated_text: str
    finish_reason: NotRequired[Literal["stop", "length", "error", "cancelled"]]
    error: NotRequired[str]
