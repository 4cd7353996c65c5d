"""Promise: a token depends on its own row, rules and random number, as in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runners.engines.generate.sampling import choose_tokens
from runners.engines.generation_request import Sampling

VOCABULARY = 3000


def _logits(rows: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(7)) * scale


def _warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    ids: Any = None
    return warpers(ids, logits).softmax(-1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, 0, 1.0, 0),
        Sampling(0.5, 20, 1.0, 0),
        Sampling(1.5, 0, 0.9, 0),
        Sampling(0.7, 50, 0.8, 0),
        Sampling(3.0, 0, 0.999, 0),
        Sampling(1.0, 1, 1.0, 0),
        Sampling(1.0, 10 * VOCABULARY, 0.5, 0),
    ],
    ids=str,
)
def test_a_token_is_drawn_as_often_as_transformers_would(sampling: Sampling) -> None:
    logits = _logits(1)
    draws = 4000
    numbers = [(i + 0.5) / draws for i in range(draws)]
    tokens = [
        token
        for start in range(0, draws, 500)
        for token in choose_tokens(logits.expand(500, -1), [sampling] * 500, numbers[start : start + 500])
    ]
    share = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY) / draws
    expected = _warped(logits, sampling)[0]
    assert float((share - expected).abs().max()) <= 1.5 / draws
    assert not share[expected == 0].any()


def test_other_rows_do_not_change_a_row() -> None:
    logits = _logits(6)
    samplings = [
        None, Sampling(1.0, 0, 1.0, 0), Sampling(0.8, 5, 1.0, 0), Sampling(1.2, 0, 0.7, 0), Sampling(1.0, 900, 0.9, 0),
        Sampling(2.0, 0, 0.9999, 0),
    ]  # fmt: skip
    for number in (0.0, 0.1, 0.5, 0.93, 1 - 2**-53):
        together = choose_tokens(logits.clone(), samplings, [number] * 6)
        alone = [choose_tokens(logits[i : i + 1].clone(), [samplings[i]], [number])[0] for i in range(6)]
        assert together == alone


def test_no_random_number_picks_an_impossible_token() -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, [5, 900]] = 0.0
    for sampling in (Sampling(1.0, 0, 1.0, 0), Sampling(1.0, 50, 1.0, 0), Sampling(1.0, 0, 0.99, 0)):
        assert choose_tokens(logits, [sampling], [0.0]) == [5]
        assert choose_tokens(logits, [sampling], [1 - 2**-53]) == [900]


def test_a_flat_distribution_wider_than_the_first_candidates_is_drawn_in_full() -> None:
    logits = torch.zeros(1, VOCABULARY)
    sampling = Sampling(1.0, 0, 0.9, 0)
    drawn = {choose_tokens(logits, [sampling], [i / 200])[0] for i in range(200)}
    assert len(drawn) == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Sampling(1.0, 50, 1.0, 0), Sampling(1.0, 0, 0.95, 0)),
        (Sampling(1.0, 50, 1.0, 0), Sampling(1.0, 400, 1.0, 0)),
        (Sampling(1.0, 0, 0.9, 0), Sampling(1.0, 0, 0.999, 0)),
    ],
)
def test_ties_between_logits_do_not_depend_on_other_rows(one: Sampling, other: Sampling) -> None:
    logits = _logits(2).bfloat16().float()
    for number in range(100):
        u = (number + 0.5) / 100
        assert choose_tokens(logits, [one, other], [u, u])[0] == choose_tokens(logits[:1], [one], [u])[0]
