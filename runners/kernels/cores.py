"""Cores that this process may use, and the thread settings of libraries."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

#: Environment variables that the compute libraries read when they are imported.
THREAD_ENVIRONMENT: Mapping[str, str] = {
    # OpenMP's threads spin while they wait. With a lower count they sleep and are woken for every operation, at half
    # the speed. Where other processes need the cores, `engines.batch.thread_choice` computes with one thread.
    "GOMP_SPINCOUNT": "20000",
    # One thread tokenizes while the others compute.
    "TOKENIZERS_PARALLELISM": "false",
}

#: CPU time limit of a container in cgroups version 2: quota and period in one file.
_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
#: The same in version 1: the quota, in microseconds per period, and the period.
_CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def count_available_cores(limit: float | None = None) -> int:
    """Count the cores that this process may use.

    This is the smallest of its CPU affinity, its container's limit and `limit`. More threads would not compute faster:
    Linux stops all of them when the container's share is used up.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(bound, _read_container_limit(), limit or bound)), 1)


def read_cpu_name() -> str:
    """Return the name of the CPU from the operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def set_thread_count(number: int) -> None:
    """Set the number of threads for what the calling thread computes from now on."""
    import torch  # imported here: other functions of this module must not load PyTorch

    # Setting the number clears what oneDNN has prepared, even if the number stays the same.
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def _read_container_limit() -> float:
    # Ignored errors: there is no such file, or no limit ("max" or -1).
    with suppress(OSError, ValueError):
        quota, period = _CGROUP_2.read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = (path.read_text() for path in _CGROUP_1)
        if int(quota) > 0:
            return int(quota) / int(period)
    return math.inf
