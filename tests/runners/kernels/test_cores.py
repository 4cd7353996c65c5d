"""Promises of the core count: at most the affinity, the container's limit and the configured limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from runners.kernels import cores
from runners.kernels.cores import count_available_cores, set_thread_count


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP_2", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "_CGROUP_1", (tmp_path / "cpu.cfs_quota_us", tmp_path / "cpu.cfs_period_us"))
    return tmp_path


def test_without_a_container_limit_the_affinity_counts(container: Path) -> None:
    assert count_available_cores() == 16


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_the_cpu_limit_of_cgroups_2_counts(container: Path, text: str, expected: int) -> None:
    (container / "cpu.max").write_text(text)
    assert count_available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("300000", 3)])
def test_the_cpu_limit_of_cgroups_1_counts(container: Path, quota: str, expected: int) -> None:
    (container / "cpu.cfs_quota_us").write_text(quota)
    (container / "cpu.cfs_period_us").write_text("100000")
    assert count_available_cores() == expected


def test_the_configured_limit_counts(container: Path) -> None:
    assert count_available_cores(2.5) == 3
    assert count_available_cores(64) == 16


def test_the_thread_count_is_only_set_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1] if numbers else 2)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    for number in (2, 1, 1, 2, 2, 1):
        set_thread_count(number)
    assert numbers == [1, 2, 1]
