"""How many cores there are for this process, and how libraries use them."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

#: What libraries that compute read when they are imported.
THREAD_ENVIRONMENT: Mapping[str, str] = {
    # OpenMP's threads spin while they wait for each other. Asleep sooner, they are woken for every operation, and lose
    # half of their speed; where others want the cores, `engines.batch.thread_choice` has one thread compute alone.
    "GOMP_SPINCOUNT": "20000",
    # A text is tokenized by one thread while the others compute.
    "TOKENIZERS_PARALLELISM": "false",
}

#: Where Linux says how much of the processors' time a container may take: version 2 of cgroups, in one file.
_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
#: Version 1, in two files: microseconds in each period, and its length.
_CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def available_cores(limit: float | None = None) -> int:
    """Cores that this process may use: those of the machine it is bound to, of its container, and of `limit`.

    Threads beyond them compute nothing sooner: all are stopped when the share is used up.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(bound, _container_cores(), limit or bound)), 1)


def cpu_name() -> str:
    """The CPU's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def use_threads(number: int) -> None:
    """Have what the calling thread computes from now on be computed by so many threads."""
    import torch  # not for those who only ask for cores

    # PyTorch forgets what oneDNN has prepared whenever the number is set, also to what it was.
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def _container_cores() -> float:
    # No such file, or no limit: "max" or -1.
    with suppress(OSError, ValueError):
        quota, period = _CGROUP_2.read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = (path.read_text() for path in _CGROUP_1)
        if int(quota) > 0:
            return int(quota) / int(period)
    return math.inf
