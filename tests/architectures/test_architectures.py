"""Promise: every architecture answers as plain transformers does, alone and in company, or says what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from errors import ServingError
from loading import LoadError
from runners.base import Item
from runners.start import start_runner
from settings import ModelSettings, Task
from tests.architectures.small import CLASSES, CONTEXT, every, save_small
from tests.tiny import CORPUS

#: Checked in every run: what is read most, and one of each kind that has been wrong.
_QUICK = frozenset(
    (
        "albert", "bart", "bert", "convbert", "distilbert", "electra", "fnet", "funnel", "gemma2", "gpt2", "llama",
        "longformer", "mobilebert", "modernbert", "mpnet", "opt", "qwen2", "roberta", "t5", "xlnet",
    )
)  # fmt: skip

#: New tokens of an answer.
_NEW = 6

CASES = [
    pytest.param(task, kind, marks=[] if kind in _QUICK else [pytest.mark.sweep], id=f"{task}-{kind}")
    for task, kind in every()
]


def _instance(task: Task, text: str, mask: str | None) -> Any:
    if task == "question-answering":
        return {"question": "Who is it?", "context": text}
    return f"{text} {mask}." if task == "fill-mask" else text


def _batches(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """Rows that may share a batch, together."""
    left = list(rows)
    while left:
        batch = [row for row in left if row.shares_batch(left[0])]
        yield batch
        left = [row for row in left if all(row is not other for other in batch)]


def _close(computed: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether they differ in rounding alone."""
    if computed.shape != right.shape or not torch.equal(computed.isfinite(), right.isfinite()):
        return False
    finite = right.isfinite()
    return bool(torch.dist(computed[finite], right[finite]) <= 1e-3 * right[finite].norm() + 1e-5)


@torch.inference_mode()
def _check_outputs(runner: Any, plain: Any, task: Task) -> None:
    mask = runner.pretrained.tokenizer.mask_token
    if task == "feature-extraction" and plain.config.is_encoder_decoder:
        plain = plain.get_encoder()
    items = [Item(_instance(task, text, mask)) for text in CORPUS]
    rows = [row for item in items for row in runner.prepare_item(item).rows]
    for batch in _batches(rows):
        outputs = runner.outputs(batch)
        first = next(one for one in outputs if isinstance(one, torch.Tensor) and len(one) == len(batch)).float()
        for computed, row in zip(first, batch, strict=True):
            inputs = {name: torch.tensor([values]) for name, values in row.inputs.items()}
            right = plain(**inputs)[0][0].float()
            if task == "fill-mask":
                right = right[runner._mask_positions(row.inputs)[0]]
            if task not in ("text-classification", "fill-mask"):
                computed = computed[: len(right)]  # without what stands for padding
            assert _close(computed, right), (computed, right)
    for answer in runner.predict(items):
        assert not isinstance(answer, Exception), answer


@torch.inference_mode()
def _check_texts(runner: Any, plain: Any) -> None:
    plain.generation_config.eos_token_id = None
    items = [Item(text, {"max_new_tokens": _NEW, "ignore_eos": True}) for text in CORPUS]
    rows = [row for item in items for row in runner.prepare_item(item).rows]
    for row, written in zip(rows, runner.forward(rows), strict=True):
        ids = torch.tensor([row.inputs.input_ids])
        tokens = plain.generate(ids, max_new_tokens=_NEW, do_sample=False, num_beams=1)[0].tolist()
        assert written.tokens == tokens[-len(written.tokens) :]


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_an_architecture_answers_as_plain_transformers_does(task: Task, kind: str, tmp_path: Path) -> None:
    try:
        folder = save_small(tmp_path, kind, task)
        plain = CLASSES[task][0].from_pretrained(folder).eval()
    except Exception as error:
        pytest.skip(f"cannot be built small: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    settings = ModelSettings.model_validate({"storage_uri": str(folder), "task": task, "max_model_len": CONTEXT - 8})
    try:
        runner = start_runner(settings)
    except (LoadError, ServingError) as error:
        pytest.fail(f"is refused: {error}")
    if task in ("text-generation", "text2text-generation"):
        _check_texts(runner, plain)
    else:
        _check_outputs(runner, plain, task)
