"""Promise: a stored plan is found only for its own key, and the cache never fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from runners.engines.calibration import plan_cache as kept_module
from runners.engines.calibration.encoders import BatchPlan
from runners.engines.calibration.plan_cache import PlanCache
from runners.engines.calibration.steps import StepPlan
from runners.engines.rows import BatchLimits, Parallelism

_PLAN = BatchPlan(BatchLimits(4, 160, padded=False), Parallelism(2, 1, 2))


def test_a_plan_is_found_only_for_the_same_key(tmp_path: Path) -> None:
    kept = PlanCache(tmp_path)
    kept.store(_PLAN, {"model": "a", "cores": 2})
    assert kept.find(BatchPlan, {"cores": 2, "model": "a"}) == _PLAN
    assert kept.find(BatchPlan, {"model": "a", "cores": 4}) is None
    assert kept.find(StepPlan, {"model": "a", "cores": 2}) is None


def test_another_processor_version_or_format_finds_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = PlanCache(tmp_path)
    kept.store(_PLAN, {})
    for name, value in (("__version__", "other"), ("_processor", lambda: "other"), ("_FORMAT", 1)):
        with monkeypatch.context() as changed:
            changed.setattr(kept_module, name, value)
            assert kept.find(BatchPlan, {}) is None
    assert kept.find(BatchPlan, {}) == _PLAN


def test_an_unusable_plan_is_not_stored(tmp_path: Path) -> None:
    kept = PlanCache(tmp_path)
    with pytest.raises(ValidationError):
        kept.find_or_measure(BatchPlan, {}, lambda: BatchPlan(BatchLimits(0, 160), Parallelism()))
    assert kept.find(BatchPlan, {}) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b'{"limits": 1}', b"\xff",
        b'{"limits":{"max_rows":4,"max_tokens":160,"padded":false},"parallelism":{"workers":0}}',
    ],
)  # fmt: skip
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    kept = PlanCache(tmp_path)
    kept.store(_PLAN, {})
    (file,) = (tmp_path / "calibration").iterdir()
    file.write_bytes(damage)
    assert kept.find(BatchPlan, {}) is None
    kept.store(_PLAN, {})
    assert kept.find(BatchPlan, {}) == _PLAN


def test_an_unusable_folder_stores_no_plan(tmp_path: Path) -> None:
    (tmp_path / "calibration").write_text("a file")
    kept = PlanCache(tmp_path)
    kept.store(_PLAN, {})
    assert kept.find(BatchPlan, {}) is None


def test_a_full_disk_stores_no_plan_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def write_a_part(path: Path, content: bytes) -> int:
        write(path, content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = PlanCache(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_a_part)
        assert kept.find_or_measure(BatchPlan, {}, lambda: _PLAN) == _PLAN
    assert list((tmp_path / "calibration").iterdir()) == []
    assert kept.find(BatchPlan, {}) is None
