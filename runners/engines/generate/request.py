"""What a sequence to be written depends on, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from runners.engines.generate.grammar import Grammar

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: from logits divided by `temperature`, from the `top_k` likeliest (0: all) that together
    have the probability `top_p`, with random numbers of `seed`."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to be written after, or in answer to, a prompt. None leaves a value to the model.

    Attributes:
        input_ids: tokens of the prompt, at least one.
        max_new_tokens: with the prompt of a decoder-only model, no more than its context.
        sampling: None for the likeliest tokens.
        presence_penalty, frequency_penalty: subtracted from the logits of tokens that were written, once and for each
            time (https://platform.openai.com/docs/api-reference/chat/create).
        logit_bias: added to the logits of tokens.
        logprobs: alternatives reported for each token, beside its own log probability; None for no report.
        stop: strings before the first of which the text ends.
        stop_ids: those of them that are special tokens, which no text shows, by token.
        ignore_eos: write on after the model has ended its text.
        continues: the text continues the prompt's, rather than being a text of its own.
        grammar: what the text must conform to.
    """

    input_ids: list[int]
    max_new_tokens: int
    min_new_tokens: int = 0
    sampling: Sampling | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: Mapping[int, str] = field(default_factory=dict)
    ignore_eos: bool = False
    continues: bool = False
    grammar: Grammar | None = None
    forced_bos_token_id: int | None = None


class Alternative(TypedDict):
    """A token with its log probability under the model, before any penalty, bias or temperature."""

    token: str
    id: int
    logprob: float
    bytes: list[int] | None
    special: bool


class TokenLogprob(Alternative):
    """A written token, and the likeliest tokens in its place, likeliest first."""

    top: list[Alternative]


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """A finished sequence.

    Attributes:
        tokens: all new tokens, the one that ended the sequence included.
        text: without special tokens, before the first stop string.
        stop_sequence: the stop string that ended it, if one did.
        cached_tokens: tokens of the prompt that need not be computed, because another prompt began with the same.
    """

    tokens: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    stop_sequence: str | None = None
    cached_tokens: int = 0
