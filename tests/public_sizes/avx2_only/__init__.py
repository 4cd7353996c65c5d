"""A process that computes as if the processor had AVX2 and nothing newer.

What LLVM is told is changed by `sitecustomize.py` here, which Python imports when it starts, in the process itself and
in those that it starts, the compiler's among them; libraries read variables.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER, _PROJECT = Path(__file__).parent, Path(__file__).parents[3]


def environment() -> dict[str, str]:
    """This process's environment, with what limits one that gets it."""
    return {
        **os.environ,
        # The project as well, for those who start Python in another folder.
        "PYTHONPATH": os.pathsep.join([str(_FOLDER), str(_PROJECT)]),
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
