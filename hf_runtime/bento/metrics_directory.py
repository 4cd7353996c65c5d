"""Where the processes of one server gather their metrics."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer

from hf_runtime.settings import SettingsError

#: Bytes that the files of one server take at first. They are mapped into memory: a process that finds no room for what
#: it writes there is killed (SIGBUS) without a word.
_ROOM = 1 << 20


def own_metrics_directory() -> None:
    """Give the server that is starting a folder of its own, and forget it when it ends.

    BentoML has one folder for all servers of a user and empties it at each start: the servers that run already lose
    their metrics, show those of the new one, and a process that opens its files at that moment answers nothing but
    500 from then on. `bentoml serve` loads the service before it makes the folder and starts other processes; in
    those, which are told the folder, the call means nothing.

    Raises:
        SettingsError: the disk is full.
    """
    home = Path(BentoMLContainer.bentoml_home.get())
    if (free := shutil.disk_usage(home).free) < _ROOM:
        raise SettingsError(
            f"BENTOML_HOME: {free // 1024} KiB are free in {home}, where processes keep their metrics: make room, or "
            "choose another folder."
        )
    # The name of the host as well: containers that share a home are all process 1.
    name = f"{socket.gethostname()}-{os.getpid()}"
    directory = home / "server_metrics" / name
    BentoMLContainer.prometheus_multiproc_dir.set(str(directory))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
