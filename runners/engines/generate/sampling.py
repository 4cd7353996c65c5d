"""From logits to tokens: each sequence by its own rules and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.request import Alternative, Sampling, TokenLogprob
from runners.engines.generate.sequence import SequenceState

#: Candidates looked at first when only `top_p` bounds them: sorting a whole vocabulary takes milliseconds a row.
_LIKELIEST = 1024

#: That of a token which is next to impossible, as OpenAI has it; JSON has no infinity.
_LEAST_LOGPROB = -9999.0


class Sampler:
    """Chooses the next tokens of many sequences at once.

    Attributes:
        only_nan: whether all logits of the last step were NaN.
    """

    def __init__(self, model: GenerationModel) -> None:
        self._model = model
        self.only_nan = False

    def step(self, sequences: Sequence[SequenceState], logits: torch.Tensor) -> None:
        """Give each sequence its next token, or the error that befell it.

        Args:
            logits: shape (sequences, vocabulary); may be overwritten.
        """
        logits = logits.float()
        largest = logits.amax(-1).tolist()
        normal = [math.isfinite(value) for value in largest]
        # One NaN makes the largest one: only a step of nothing else is looked at as a whole.
        self.only_nan = all(map(math.isnan, largest)) and bool(logits.isnan().all())
        raw = {i: logits[i].log_softmax(-1) for i, s in enumerate(sequences) if s.request.logprobs is not None}
        for i, sequence in enumerate(sequences):
            if not normal[i]:
                sequence.fail(InferenceFailed("the model's numbers overflowed; try TORCH_DTYPE=bfloat16 or float32"))
            elif sequence.rules or sequence.matcher is not None:
                self._apply_rules(sequence, logits[i : i + 1])
        tokens = choose(logits, [s.request.sampling for s in sequences], [s.random_number() for s in sequences])
        for i, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            if not sequence.finished:
                with sequence.guarded():
                    sequence.accept(token, self._logprob(token, raw[i], sequence) if i in raw else None)

    def _apply_rules(self, sequence: SequenceState, logits: torch.Tensor) -> None:
        with sequence.guarded():
            if sequence.rules:
                ids: Any = torch.tensor([self._model.start(sequence.request) + sequence.tokens], device=logits.device)
                logits.copy_(sequence.rules(ids, logits))
            if sequence.matcher is not None:
                sequence.matcher.mask(logits[0])
            if logits.max() == -torch.inf:
                raise InvalidRequest("no token could come next: what is asked of the text excludes every one")

    def _logprob(self, token: int, logprobs: torch.Tensor, sequence: SequenceState) -> TokenLogprob:
        wanted = sequence.request.logprobs or 0
        values, ids = logprobs.topk(wanted)
        top = [self._alternative(i, value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
        return {**self._alternative(token, float(logprobs[token])), "top": top}

    def _alternative(self, token: int, logprob: float) -> Alternative:
        spelled = self._model.grammars.token_bytes(token)
        text = spelled.decode(errors="replace")
        special = token in self._model.special_ids
        logprob = max(logprob, _LEAST_LOGPROB)
        return {"token": text, "id": token, "logprob": logprob, "bytes": list(spelled), "special": special}


def choose(logits: torch.Tensor, samplings: Sequence[Sampling | None], uniforms: Sequence[float]) -> list[int]:
    """The next token of each row: the likeliest, or the one that a random number picks.

    A number u picks the first of a row's candidates, likeliest first, with which their probabilities sum to more than
    u of the whole. So a token depends on its own row and number, not on the rows beside it.

    Args:
        logits: float32, shape (rows, vocabulary).
        uniforms: one in [0, 1) for each row.
    """
    tokens = logits.argmax(-1).tolist()
    for restricted in (False, True):
        rows = [i for i, s in enumerate(samplings) if s is not None and _is_restricted(s) == restricted]
        if not rows:
            continue
        asked = [s for s in (samplings[i] for i in rows) if s is not None]
        device = logits.device
        temperatures = torch.tensor([s.temperature for s in asked], device=device)
        scores = logits[rows] / temperatures[:, None]
        u = torch.tensor([uniforms[i] for i in rows], device=device, dtype=torch.float64)
        drawn = _draw_restricted(scores, asked, u) if restricted else _draw(scores.softmax(-1), u)
        for i, token in zip(rows, drawn.tolist(), strict=True):
            tokens[i] = token
    return tokens


def _is_restricted(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1


def _draw(probabilities: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Index into each row of (unnormalized) probabilities."""
    sums = probabilities.cumsum(-1, dtype=torch.float64)
    picked = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]
    # Rounding may leave u at the very end, behind which there are only impossible tokens.
    last = probabilities.shape[-1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(picked, last)


def _order(scores: torch.Tensor) -> torch.Tensor:
    """Whole numbers in the order of the scores, no two of a row alike: of equal scores, the first token's is greater.

    How `topk` orders equal ones depends on how many it is asked for, and so on other rows.
    """
    bits = scores.contiguous().view(torch.int32)
    increasing = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (increasing << 32) - torch.arange(scores.shape[-1], device=scores.device)


def _draw_restricted(scores: torch.Tensor, asked: Sequence[Sampling], u: torch.Tensor) -> torch.Tensor:
    vocabulary = scores.shape[-1]
    top_k = torch.tensor([s.top_k or vocabulary for s in asked], device=scores.device)[:, None]
    top_p = torch.tensor([s.top_p for s in asked], device=scores.device)[:, None]
    unbounded = any(s.top_k == 0 or s.top_k >= vocabulary for s in asked)
    width = min(max(_LIKELIEST if s.top_k == 0 else s.top_k for s in asked), vocabulary)
    order = _order(scores)
    while True:
        ids = order.topk(width).indices
        values = scores.gather(-1, ids)
        # Of all tokens that top_k leaves; where it leaves all, the sum runs over the whole vocabulary.
        within = torch.arange(width, device=scores.device) < top_k
        weights = (values - values[:, :1]).double().exp() * within
        total = weights.sum(-1, keepdim=True)
        if unbounded:
            everything = (scores - values[:, :1]).double().exp().sum(-1, keepdim=True)
            total = torch.where(top_k < vocabulary, total, everything)
        before = (weights.cumsum(-1) - weights) / total
        enough = (top_k <= width) | (before[:, -1:] >= top_p)
        if width == vocabulary or bool(enough.all()):
            # A token belongs to the nucleus unless those before it reach top_p already; the first always does.
            kept = weights * ((before < top_p) & within)
            return ids.gather(-1, _draw(kept, u)[:, None])[:, 0]
        width = vocabulary
