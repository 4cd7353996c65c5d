"""Environment in which a process computes as if the processor had AVX2 and nothing newer.

`sitecustomize.py` here changes the features that LLVM detects. Python imports it at its start, in the process itself
and in its child processes, such as the compiler's; libraries read variables.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER, _PROJECT = Path(__file__).parent, Path(__file__).parents[3]


def environment() -> dict[str, str]:
    """Return this process's environment with the variables that limit a child to AVX2."""
    return {
        **os.environ,
        # The project is on the path as well, for children that start Python in another folder.
        "PYTHONPATH": os.pathsep.join([str(_FOLDER), str(_PROJECT)]),
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
