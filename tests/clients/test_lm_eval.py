"""Promise: the LM Evaluation Harness scores and generates, with the results of plain transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.clients.answers import MODEL, PROMPT, QUESTION, Server
from tests.clients.client import Client
from tests.clients.conftest import CHECKPOINT

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients")]

#: Contexts with continuations; the model would have continued some of them so.
_PAIRS = [
    ("The capital of France is", " Paris."),
    ("The capital of France is", " Rome."),
    ("Water boils at a temperature of", " one hundred degrees"),
    ("", "Once upon a time"),
    ("Two and two make", " four"),
]
_TEXTS = ["The sun rises in the east.", "Hello"]

#: Returns the log probability of a continuation, and whether it is the most probable one.
Score = Callable[[str, str], tuple[float, bool]]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client("lm_eval", {"url": server.url, "model": MODEL}) as running:
        yield running


@pytest.fixture(scope="module")
def score(tokenizer_folder: str) -> Score:
    """Return a function that scores a continuation with plain transformers."""
    (file,) = CHECKPOINT.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(CHECKPOINT, gguf_file=file.name, dtype=torch.float32)

    def score_continuation(context: str, continuation: str) -> tuple[float, bool]:
        # The harness puts the first token of texts in place of an empty context.
        before = tokenizer(context)["input_ids"] or [tokenizer.bos_token_id]
        after = tokenizer(context + continuation)["input_ids"][len(before) if context else 0 :]
        tokens = torch.tensor([*before, *after])
        with torch.inference_mode():
            logprobs = model(tokens[None, :-1]).logits[0, len(before) - 1 :].float().log_softmax(-1)
        chosen = logprobs.gather(1, tokens[len(before) :, None]).sum().item()
        return chosen, bool((logprobs.argmax(-1) == tokens[len(before) :]).all())

    return score_continuation


def _assert_scores(scores: Sequence[Sequence[float]], expected: Sequence[tuple[float, bool]]) -> None:
    assert [score[0] for score in scores] == pytest.approx([logprob for logprob, _ in expected], abs=2e-3)
    assert [score[1] for score in scores] == [is_greedy for _, is_greedy in expected]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_loglikelihoods(client: Client, tokenizer_folder: str, score: Score, batch_size: int) -> None:
    expected = [score(*pair) for pair in _PAIRS]
    assert len({is_greedy for _, is_greedy in expected}) == 2
    _assert_scores(
        client.call("loglikelihood", tokenizer=tokenizer_folder, pairs=_PAIRS, batch_size=batch_size), expected
    )


@pytest.mark.parametrize("function", ["loglikelihood_concurrent", "loglikelihood_of_strings"])
def test_loglikelihoods_by_other_requests(client: Client, tokenizer_folder: str, score: Score, function: str) -> None:
    pairs = [pair for pair in _PAIRS if pair[0]]
    _assert_scores(client.call(function, tokenizer=tokenizer_folder, pairs=pairs), [score(*pair) for pair in pairs])


def test_rolling_loglikelihoods(client: Client, tokenizer_folder: str, score: Score) -> None:
    logprobs = client.call("rolling", tokenizer=tokenizer_folder, texts=_TEXTS)
    assert logprobs == pytest.approx([score("", text)[0] for text in _TEXTS], abs=2e-3)


def test_generation(server: Server, client: Client, tokenizer_folder: str) -> None:
    (text,) = client.call("generation", tokenizer=tokenizer_folder, prompts=[PROMPT])
    assert text == server.complete().partition("\n\n")[0]


def test_chat(server: Server, client: Client) -> None:
    assert client.call("chat", question=QUESTION) == [server.chat()]
