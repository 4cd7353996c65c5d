"""Sampling of next tokens: each sequence uses its own rules and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.sequence import SequenceState
from runners.engines.generation_request import Alternative, PromptTokenLogprob, Sampling, TokenLogprob

#: Candidates tried first when only `top_p` limits them: sorting a whole vocabulary takes milliseconds per row.
_LIKELIEST = 1024

#: Rows of logits that are compared with each other at a time, to bound the memory of the copies.
_ROWS = 64

#: The least log probability that is reported, as in OpenAI's API; JSON has no infinity.
_LEAST_LOGPROB = -9999.0

_OVERFLOWED = "the model's numbers overflowed; try TORCH_DTYPE=bfloat16 or float32"


class Sampler:
    """Sampler of the next tokens of a batch of sequences.

    Attributes:
        only_nan: whether all logits of the last step were NaN.
    """

    def __init__(self, model: GenerationModel) -> None:
        self._model = model
        self.only_nan = False

    def sample_next(self, sequences: Sequence[SequenceState], logits: torch.Tensor) -> None:
        """Sample the next token of each sequence; a failed sequence gets its error instead.

        Args:
            logits: shape (sequences, vocabulary); may be modified in place.
        """
        logits = logits.float()
        largest = logits.amax(-1).tolist()
        normal = [math.isfinite(value) for value in largest]
        # A single NaN makes the maximum NaN, so all logits are checked only if every maximum is NaN.
        self.only_nan = all(map(math.isnan, largest)) and bool(logits.isnan().all())
        raw = {i: logits[i].log_softmax(-1) for i, s in enumerate(sequences) if s.request.logprobs is not None}
        for i, sequence in enumerate(sequences):
            if not normal[i]:
                sequence.fail(InferenceFailed(_OVERFLOWED))
            elif sequence.rules or sequence.matcher is not None:
                self._apply_rules(sequence, logits[i : i + 1])
        tokens = choose_tokens(logits, [s.request.sampling for s in sequences], [s.random_number() for s in sequences])
        for i, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if not sequence.finished:
                with sequence.catch_errors():
                    sequence.accept(token, self._report_logprob(token, raw[i], sequence) if i in raw else None)

    def _apply_rules(self, sequence: SequenceState, logits: torch.Tensor) -> None:
        with sequence.catch_errors():
            if sequence.rules:
                ids: Any = torch.tensor(
                    [self._model.start_tokens(sequence.request) + sequence.tokens], device=logits.device
                )
                logits.copy_(sequence.rules(ids, logits))
            if sequence.matcher is not None:
                sequence.matcher.mask(logits[0])
            if logits.max() == -torch.inf:
                raise InvalidRequest("no token could come next: what is asked of the text excludes every one")

    def _report_logprob(self, token: int, logprobs: torch.Tensor, sequence: SequenceState) -> TokenLogprob:
        wanted = sequence.request.logprobs or 0
        values, ids = logprobs.topk(wanted)
        top = [self._make_alternative(i, value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
        return {**self._make_alternative(token, float(logprobs[token])), "top": top}

    def record_prompt(self, sequence: SequenceState, first: int, logits: torch.Tensor) -> None:
        """Record the log probabilities of the tokens that follow some tokens of the prompt.

        Args:
            first: index in the prompt of the first of these tokens; earlier ones are recorded already.
            logits: of these tokens, shape (tokens, vocabulary).
        """
        ids, recorded = sequence.request.input_ids, sequence.prompt_logprobs
        with sequence.catch_errors():
            if not recorded:
                recorded.append(self._make_prompt_logprob(ids[0], None, None, []))
            following = ids[first + 1 : first + 1 + len(logits)]
            for start in range(0, len(following), _ROWS):
                tokens = following[start : start + _ROWS]
                recorded += self._make_prompt_logprobs(tokens, logits[start : start + len(tokens)], sequence)

    def _make_prompt_logprobs(
        self, tokens: Sequence[int], logits: torch.Tensor, sequence: SequenceState
    ) -> list[PromptTokenLogprob]:
        logits = logits.float()
        totals = logits.logsumexp(-1, keepdim=True)
        if not bool(totals.isfinite().all()):
            raise InferenceFailed(_OVERFLOWED)
        own = logits.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])
        ranks = (logits > own).sum(-1) + 1
        likeliest = logits.topk(sequence.request.prompt_logprobs or 0)
        rows = zip(
            tokens,
            (own - totals)[:, 0].tolist(),
            ranks.tolist(),
            likeliest.indices.tolist(),
            (likeliest.values - totals).tolist(),
            strict=True,
        )
        return [
            self._make_prompt_logprob(
                token, logprob, rank, [self._make_alternative(*each) for each in zip(ids, values, strict=True)]
            )
            for token, logprob, rank, ids, values in rows
        ]

    def _make_prompt_logprob(
        self, token: int, logprob: float | None, rank: int | None, top: list[Alternative]
    ) -> PromptTokenLogprob:
        named = self._make_alternative(token, 0.0 if logprob is None else logprob)
        return {**named, "logprob": None if logprob is None else named["logprob"], "rank": rank, "top": top}

    def _make_alternative(self, token: int, logprob: float) -> Alternative:
        raw_bytes = self._model.grammars.token_bytes(token)
        text = raw_bytes.decode(errors="replace")
        special = token in self._model.special_ids
        logprob = max(logprob, _LEAST_LOGPROB)
        return {"token": text, "id": token, "logprob": logprob, "bytes": list(raw_bytes), "special": special}


def choose_tokens(logits: torch.Tensor, samplings: Sequence[Sampling | None], uniforms: Sequence[float]) -> list[int]:
    """Choose the next token of each row: the likeliest, or one by the row's random number.

    Candidates are ordered from the likeliest on. A random number u selects the first one at which the sum of
    probabilities exceeds u of the total. A token depends only on its own row and number, not on other rows.

    Args:
        logits: float32, shape (rows, vocabulary).
        uniforms: random number in [0, 1) of each row.
    """
    tokens = logits.argmax(-1).tolist()
    for restricted in (False, True):
        rows = [i for i, s in enumerate(samplings) if s is not None and _is_restricted(s) == restricted]
        if not rows:
            continue
        parameters = [s for s in (samplings[i] for i in rows) if s is not None]
        device = logits.device
        temperatures = torch.tensor([s.temperature for s in parameters], device=device)
        scores = logits[rows] / temperatures[:, None]
        u = torch.tensor([uniforms[i] for i in rows], device=device, dtype=torch.float64)
        drawn = _draw_restricted(scores, parameters, u) if restricted else _draw(scores.softmax(-1), u)
        for i, token in zip(rows, drawn.tolist(), strict=True):
            tokens[i] = token
    return tokens


def _is_restricted(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _draw(probabilities: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Draw an index from each row of (unnormalized) probabilities."""
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    picked = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]
    # Rounding may put u at the very end, where only impossible tokens follow.
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(picked, last)


def _rank(scores: torch.Tensor) -> torch.Tensor:
    """Rank scores by distinct integers; of equal scores the first one ranks higher.

    `topk` orders equal scores differently for different k, so that a token would depend on other rows.
    """
    bits = scores.contiguous().view(torch.int32)
    increasing = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (increasing << 32) - torch.arange(scores.shape[-1], device=scores.device)


def _draw_restricted(scores: torch.Tensor, parameters: Sequence[Sampling], u: torch.Tensor) -> torch.Tensor:
    vocabulary = scores.shape[-1]
    top_k = torch.tensor([s.top_k or vocabulary for s in parameters], device=scores.device)[:, None]
    top_p = torch.tensor([s.top_p for s in parameters], device=scores.device)[:, None]
    min_p = None
    if any(s.min_p for s in parameters):
        min_p = torch.tensor([s.min_p for s in parameters], device=scores.device, dtype=torch.float64)[:, None]
    unbounded = any(s.top_k == 0 or s.top_k >= vocabulary for s in parameters)
    width = min(max(_LIKELIEST if s.top_k == 0 else s.top_k for s in parameters), vocabulary)
    ranks = _rank(scores)
    while True:
        ids = ranks.topk(width).indices
        values = scores.gather(-1, ids)
        # The total covers the tokens within top_k; without top_k, the whole vocabulary.
        within = torch.arange(width, device=scores.device) < top_k
        weights = (values - values[:, :1]).double().exp() * within
        if min_p is not None:
            weights = weights * (weights >= min_p)
        total = weights.sum(-1, keepdim=True)
        if unbounded:
            all_weights = (scores - values[:, :1]).double().exp()
            if min_p is not None:
                all_weights = all_weights * (all_weights >= min_p)
            full_total = all_weights.sum(-1, keepdim=True)
            total = torch.where(top_k < vocabulary, total, full_total)
        before = (weights.cumsum(-1) - weights) / total
        enough = (top_k <= width) | (before[:, -1:] >= top_p) | (weights[:, -1:] == 0)
        if width == vocabulary or bool(enough.all()):
            # A token is in the nucleus if the tokens before it do not reach top_p yet; the first always is.
            nucleus = weights * ((before < top_p) & within)
            return ids.gather(-1, _draw(nucleus, u)[:, None])[:, 0]
        width = vocabulary
