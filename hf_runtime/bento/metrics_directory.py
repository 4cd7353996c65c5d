"""Directory in which the processes of one server store their metrics."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer

from hf_runtime.settings import SettingsError

#: Initial size in bytes of one server's files. They are mapped into memory: if the disk is full, a process that writes
#: to them is killed (SIGBUS) without a message.
_INITIAL_SIZE = 1 << 20


def use_private_metrics_directory() -> None:
    """Set a separate metrics directory for this server, and delete it at exit.

    BentoML has one directory for all servers of a user and empties it at each start. Servers that already run would
    lose their metrics and show those of the new one, and a process that opens its files at that moment would answer
    every request with 500. `bentoml serve` loads the service before it creates the directory and starts the other
    processes; in those, which inherit the directory, this call has no effect.

    Raises:
        SettingsError: the disk is full.
    """
    home = Path(BentoMLContainer.bentoml_home.get())
    if (free := shutil.disk_usage(home).free) < _INITIAL_SIZE:
        raise SettingsError(
            f"BENTOML_HOME: {free // 1024} KiB are free in {home}, where processes keep their metrics: make room, or "
            "choose another folder."
        )
    # With the host name, because containers that share a home directory may all have process id 1.
    name = f"{socket.gethostname()}-{os.getpid()}"
    directory = home / "server_metrics" / name
    BentoMLContainer.prometheus_multiproc_dir.set(str(directory))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
