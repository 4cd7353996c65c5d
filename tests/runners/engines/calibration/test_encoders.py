"""Promise: batches follow the machine's measurements unless the operator sets them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_runtime.settings import ModelSettings
from runners.engines.calibration import encoders, stopwatch
from runners.engines.calibration.encoders import CPU_ROWS, BatchPlan, calibrate, worker_options
from runners.engines.rows import BatchLimits, Parallelism, Row, select_batch
from runners.tasks import encoder
from runners.tasks.text_classification import TextClassificationRunner
from tests.tiny import bert_config, save, wordpiece_tokenizer

_EXAMPLE: Row[Mapping[str, list[int]]] = Row({"input_ids": [2, 9, 3], "attention_mask": [1, 1, 1]}, 3)


def _default_plan(cores: int, padded: bool = False) -> BatchPlan:
    workers, threads = worker_options(cores, None)[0]
    return BatchPlan(BatchLimits(8, 2048, padded=padded), Parallelism(workers, threads, workers))


class _Machine:
    """Machine that needs a second per token with one thread, and more per batch.

    Each batch needs `batch` seconds more; with several threads it is `together` times as fast.
    """

    def __init__(self, batch: float, together: float) -> None:
        self._batch = batch
        self._together = together
        self._lock = threading.Lock()
        self.now = 0.0
        self.sizes: set[int] = set()

    def forward(self, rows: Sequence[Row[Any]]) -> None:
        self.sizes.add(len(rows))
        tokens = sum(row.length for row in rows)
        assert all(len(values) == row.length for row in rows for values in row.inputs.values())
        if threading.current_thread() is threading.main_thread():  # one of the parallel workers advances the clock
            self.now += (self._batch + tokens) / (1 if torch.get_num_threads() == 1 else self._together)


def _plan(machine: _Machine, monkeypatch: pytest.MonkeyPatch, padded: bool = False, **options: Any) -> BatchPlan | None:
    monkeypatch.setattr(encoders, "Stopwatch", lambda seconds: stopwatch.Stopwatch(seconds, lambda: machine.now))
    monkeypatch.setattr(stopwatch, "_MIN_CPU_SHARE", 0)
    settings: dict[str, Any] = {
        "rows": CPU_ROWS,
        "workers": worker_options(4, None),
        "seconds": 1e6,
        "longest": 512,
        **options,
    }
    return calibrate(machine.forward, _EXAMPLE, _default_plan(4, padded), **settings)


def test_several_workers_are_chosen_if_threads_scale_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_Machine(batch=5, together=2), monkeypatch)
    assert plan is not None
    assert plan.parallelism == Parallelism(4, 1, 4)
    # The tokens of eight rows, and memory for one more.
    assert plan.limits.max_tokens == 40 + 24 + 64 + 16 + 48 + 32 + 40 + 24 + 64
    assert plan.limits.max_rows == plan.limits.max_tokens // 8


def test_one_worker_with_all_threads_is_chosen_if_threads_scale_well(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_Machine(batch=10, together=6), monkeypatch)
    assert plan is not None
    assert plan.parallelism == Parallelism(1, 4, 4)


def test_batches_grow_only_while_they_get_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (_plan(_Machine(batch, together=1), monkeypatch) for batch in (0.1, 100))
    assert small is not None
    assert large is not None
    assert small.limits.max_tokens == 40 + 64
    assert large.limits.max_tokens == 2048  # the largest was the best, so the default is not reduced


def test_a_batch_holds_as_much_as_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_Machine(batch=5, together=2), monkeypatch)
    assert plan is not None
    for length in range(8, 65):
        rows: list[Row[None]] = [Row(None, length), Row(None, 64)] * 64
        held = sum(rows[i].length for i in select_batch(rows, plan.limits))
        assert 40 + 24 + 64 + 16 + 48 + 32 + 40 + 24 <= held <= plan.limits.max_tokens


def test_padding_counts_towards_the_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_Machine(batch=10, together=2), monkeypatch, padded=True)
    assert plan is not None
    assert plan.limits.padded
    assert (plan.limits.max_tokens - 44) % 44 == 0 or plan.limits.max_tokens - 44 == 40


def test_a_model_with_a_short_limit_is_measured_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_Machine(batch=10, together=2), monkeypatch, longest=16)
    assert plan is not None
    assert plan.limits.max_tokens % 16 == 0


def test_a_model_too_slow_to_compare_keeps_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = _Machine(batch=1000, together=1)
    assert _plan(machine, monkeypatch, seconds=3000) is None
    assert max(machine.sizes) < 8


def test_the_number_of_threads_is_restored_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    _plan(_Machine(batch=10, together=2), monkeypatch)
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(
        tmp_path_factory.mktemp("model"), BertForSequenceClassification, bert_config(tokenizer, num_labels=2), tokenizer
    )


def _warm(folder: Path, cache: Path, **options: Any) -> TextClassificationRunner:
    settings = ModelSettings(
        storage_uri=str(folder), task="text-classification", storage_cache=cache, calibration_seconds=60, **options
    )
    runner = TextClassificationRunner(settings)
    runner.load()
    runner.warm_up()
    return runner


def test_a_second_start_measures_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "_MIN_CPU_SHARE", 0)
    first = _warm(folder, tmp_path, torch_threads=2)
    monkeypatch.setattr(encoder, "calibrate", None)
    again = _warm(folder, tmp_path, torch_threads=2)
    assert (again.limits, again.parallelism) == (first.limits, first.parallelism)


def test_operator_settings_are_not_measured(folder: Path, tmp_path: Path) -> None:
    runner = _warm(folder, tmp_path, max_batch_size=3, max_batch_tokens=77)
    assert (runner.limits.max_rows, runner.limits.max_tokens) == (3, 77)
    assert (runner.execution_plan.rows, runner.execution_plan.tokens) == (3, 77)
