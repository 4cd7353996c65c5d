"""Ending the whole server from one of its processes: `bentoml serve` itself starts a process anew that ends."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType

_VARIABLE = "HUGGING_FACE_RUNTIME_SUPERVISOR"


def supervise() -> None:
    """Have this process, if it is the first one of a server, end with status 1 when another calls `end_server`.

    To be called before any process is started.
    """
    if _is_supervised():
        return
    os.environ[_VARIABLE] = str(os.getpid())
    status = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal status
        status = 1
        # In the order in which it always stops: requests that were begun are answered.
        os.kill(os.getpid(), signal.SIGTERM)

    def leave() -> None:
        if status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    signal.signal(signal.SIGUSR2, stop)
    # The first to be registered is the last to be called.
    atexit.register(leave)


def end_server() -> bool:
    """Stop all processes of the server; it ends with status 1. False if its first process does not listen."""
    if not _is_supervised():
        return False
    os.kill(os.getppid(), signal.SIGUSR2)
    return True


def _is_supervised() -> bool:
    return os.environ.get(_VARIABLE) == str(os.getppid())
