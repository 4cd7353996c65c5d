"""Run a command with AVX2 only: `python -m tests.public_sizes.avx2_only <command>`."""

from __future__ import annotations

import os
import sys

from tests.public_sizes.avx2_only import environment

os.execvpe(sys.argv[1], sys.argv[1:], environment())
