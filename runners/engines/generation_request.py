"""Requests to generate one sequence, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from runners.engines.generate.grammar import Grammar

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters.

    A token is drawn from the logits divided by `temperature`, among tokens of at least the share `min_p` of the
    greatest probability, the `top_k` likeliest of them (0: all) that together have the probability `top_p`, with random
    numbers of `seed`.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Prompt and parameters of one sequence; None leaves a value to the model.

    Attributes:
        input_ids: tokens of the prompt, at least one.
        max_new_tokens: with the prompt of a decoder-only model at most its context; 0 computes only the prompt.
        sampling: None for the likeliest tokens.
        presence_penalty, frequency_penalty: subtracted from the logits of tokens that were generated, once and for
            each occurrence (https://platform.openai.com/docs/api-reference/chat/create).
        logit_bias: added to the logits of tokens.
        logprobs: number of alternatives to report for each token with its own log probability; None for no report.
        prompt_logprobs: the same for each token of the prompt; only for decoder-only models.
        stop: stop strings; the text ends before the first one found.
        stop_ids: stop strings that are special tokens, by token; they do not appear in the text.
        stop_token_ids: tokens that end the text; they do not appear in it.
        includes_stop: the text ends with what ended it instead of before it.
        skips_special_tokens: special tokens are no part of the text.
        length_penalty: exponent of the length in the scores of a beam search.
        ignore_eos: continue after an end-of-sequence token.
        continues: the text continues the text of the prompt.
        grammar: grammar that the text must conform to.
        end_ids: tokens that end the sequence in addition to the model's own.
        visible_ids: special tokens whose text is part of the text; that of all others is left out.
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
    prompt_logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: Mapping[int, str] = field(default_factory=dict)
    stop_token_ids: frozenset[int] = frozenset()
    includes_stop: bool = False
    skips_special_tokens: bool = True
    length_penalty: float | None = None
    ignore_eos: bool = False
    continues: bool = False
    grammar: Grammar | None = None
    forced_bos_token_id: int | None = None
    end_ids: frozenset[int] = frozenset()
    visible_ids: frozenset[int] = frozenset()


class Alternative(TypedDict):
    """Token with its log probability before any penalty, bias or temperature."""

    token: str
    id: int
    logprob: float
    bytes: list[int] | None
    special: bool


class TokenLogprob(Alternative):
    """Generated token with the most likely alternatives, the likeliest first."""

    top: list[Alternative]


class PromptTokenLogprob(TypedDict):
    """Token of a prompt with its log probability; the first token has none.

    The rank is 1 if no other token is likelier.
    """

    token: str
    id: int
    logprob: float | None
    bytes: list[int] | None
    special: bool
    rank: int | None
    top: list[Alternative]


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """Output of a finished sequence.

    Attributes:
        tokens: all new tokens, including the one that ended the sequence.
        text: text without special tokens other than `visible_ids`, up to the first stop string.
        stop_sequence: the stop string that ended it, if one did.
        cached_tokens: tokens of the prompt that were copied from another sequence instead of computed.
        prompt_logprobs: a value for each token of the prompt, if the request asks for them.
    """

    tokens: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    stop_sequence: str | None = None
    cached_tokens: int = 0
    prompt_logprobs: list[PromptTokenLogprob] | None = None
