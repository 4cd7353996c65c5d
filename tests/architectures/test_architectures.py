"""Promise: every architecture answers as plain transformers does or names what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from hf_runtime.contract.errors import LoadError, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings, Task
from runners.start import start_runner
from tests.architectures.small import CLASSES, CONTEXT, every, save_small
from tests.generators import pretrained_of
from tests.tiny import CORPUS

#: Checked in every run: the most common ones, and one of each kind that has been wrong before.
_QUICK = frozenset(
    (
        "albert", "bart", "bert", "convbert", "distilbert", "electra", "fnet", "funnel", "gemma2", "gpt2", "llama",
        "longformer", "mobilebert", "modernbert", "mpnet", "opt", "qwen2", "roberta", "rwkv", "t5", "xlnet",
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
    """Group rows into batches that they may share."""
    left = list(rows)
    while left:
        batch = [row for row in left if row.shares_batch(left[0])]
        yield batch
        left = [row for row in left if all(row is not other for other in batch)]


def _close(computed: torch.Tensor, right: torch.Tensor) -> bool:
    """Return True if they differ only by rounding."""
    if computed.shape != right.shape or not torch.equal(computed.isfinite(), right.isfinite()):
        return False
    finite = right.isfinite()
    return bool(torch.dist(computed[finite], right[finite]) <= 1e-3 * right[finite].norm() + 1e-5)


@torch.inference_mode()
def _alone(plain: Any, row: Any) -> torch.Tensor:
    """Return the first output of the plain model for one row."""
    for module in plain.modules():
        if getattr(getattr(module, "config", None), "attention_type", None) == "block_sparse":
            # An earlier short input changes the model permanently, so it is restored as loaded.
            getattr(module, "set_attention_type", lambda _: None)("block_sparse")
    inputs = {name: torch.tensor([values]) for name, values in row.inputs.items()}
    output: torch.Tensor = plain(**inputs)[0][0].float()
    return output


@torch.inference_mode()
def _check_outputs(runner: Any, plain: Any, task: Task) -> None:
    mask = pretrained_of(runner).tokenizer.mask_token
    items = [Item(_instance(task, text, mask)) for text in CORPUS]
    rows = [row for item in items for row in runner.prepare_item(item).rows]
    for batch in _batches(rows):
        outputs = runner.outputs(batch)
        first = next(one for one in outputs if isinstance(one, torch.Tensor) and len(one) == len(batch)).float()
        for computed, row in zip(first, batch, strict=True):
            right = _alone(plain, row)
            if task == "fill-mask":
                right = right[runner._find_masks(row.inputs)[0]]
            if task not in ("text-classification", "fill-mask"):
                computed = computed[: len(right)]  # without the rows of padding
            assert _close(computed, right), (computed, right)
    for answer in runner.predict(items):
        assert not isinstance(answer, Exception), answer


@torch.inference_mode()
def _try(plain: Any, task: Task, folder: Path) -> None:
    """Compute a text with the plain model, as far as it can by itself."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = _instance(task, CORPUS[0], tokenizer.mask_token)
    pair = (text["question"], text["context"]) if isinstance(text, dict) else (text,)
    inputs = tokenizer(*pair, return_tensors="pt")
    if task in ("text-generation", "text2text-generation"):
        plain.generate(inputs.input_ids, max_new_tokens=2, do_sample=False, num_beams=1)
    else:
        first, again = (plain(**inputs)[0] for _ in range(2))
        assert torch.equal(first.nan_to_num(), again.nan_to_num()), "its outputs are drawn at random"


@torch.inference_mode()
def _check_texts(runner: Any, plain: Any) -> None:
    beams = runner.generator.beams
    parameters = {"max_new_tokens": _NEW, **({"ignore_eos": True} if beams == 1 else {})}
    if beams == 1:
        plain.generation_config.eos_token_id = None
    items = [Item(text, parameters) for text in CORPUS]
    rows = [row for item in items for row in runner.prepare_item(item).rows]
    for row, written in zip(rows, runner.forward(rows), strict=True):
        ids = torch.tensor([row.inputs.input_ids])
        tokens = plain.generate(ids, max_new_tokens=_NEW, do_sample=False, num_beams=beams)[0].tolist()
        assert written.tokens == tokens[-len(written.tokens) :]


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_an_architecture_answers_as_plain_transformers_does(task: Task, kind: str, tmp_path: Path) -> None:
    try:
        folder = save_small(tmp_path, kind, task)
        plain = CLASSES[task][0].from_pretrained(folder).eval()
    except Exception as error:
        pytest.skip(f"cannot be built small: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    if task == "feature-extraction" and plain.config.is_encoder_decoder:
        plain = plain.get_encoder()
    try:
        _try(plain, task, folder)
    except Exception as error:
        pytest.skip(f"plain transformers does not compute it so: {type(error).__name__}: {str(error)[:100]}")
    settings = ModelSettings.model_validate({"storage_uri": str(folder), "task": task, "max_model_len": CONTEXT - 8})
    try:
        runner = start_runner(settings)
    except (LoadError, ServingError) as error:
        pytest.fail(f"is refused: {error}")
    if task in ("text-generation", "text2text-generation"):
        _check_texts(runner, plain)
    else:
        _check_outputs(runner, plain, task)
