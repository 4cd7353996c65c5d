"""Shutdown of the whole server by one of its processes.

It is needed because `bentoml serve` restarts a process that exits.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType

_VARIABLE = "HUGGING_FACE_RUNTIME_SUPERVISOR"


def supervise() -> None:
    """Make the first process of a server exit with status 1 when another calls `end_server`.

    It must be called before any other process is started; in those, it does nothing.
    """
    if _is_supervised():
        return
    os.environ[_VARIABLE] = str(os.getpid())
    status = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal status
        status = 1
        # Use the normal shutdown, which first answers the requests in progress.
        os.kill(os.getpid(), signal.SIGTERM)

    def leave() -> None:
        if status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    signal.signal(signal.SIGUSR2, stop)
    # Handlers run in reverse order, so this one runs last.
    atexit.register(leave)


def end_server() -> bool:
    """Stop all processes of the server, which exits with status 1.

    Return False if the parent process does not supervise the server.
    """
    if not _is_supervised():
        return False
    os.kill(os.getppid(), signal.SIGUSR2)
    return True


def _is_supervised() -> bool:
    return os.environ.get(_VARIABLE) == str(os.getppid())
