"""Client in an environment of its own, whose script a test calls."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.project import ROOT

_HERE = Path(__file__).parent
#: Made by `make clients`, because the clients require other versions of the same packages.
_ENVIRONMENTS = ROOT / ".venv" / "clients"
#: Seconds after which a call counts as hung.
_PATIENCE = 240
#: Keep clients from the network.
_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


class Client:
    """Running script of a client.

    Args:
        name: folder of the script, and name of the environment.
        shared: arguments of all calls.
    """

    def __init__(self, name: str, shared: Mapping[str, Any]) -> None:
        self._shared = shared
        command = _command(name)
        self._home = tempfile.TemporaryDirectory()
        self._stderr = Path(self._home.name, "stderr")
        with self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"], "HOME": self._home.name, **_OFFLINE},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def call(self, function: str, **arguments: Any) -> Any:
        """Return what a function of the script returns.

        Raises:
            AssertionError: it raised an error, which is shown, or the process ended or hangs.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"function": function, "arguments": {**self._shared, **arguments}}),
            file=self._process.stdin,
            flush=True,
        )
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_PATIENCE) else ""
        result = json.loads(line or '{"error": "no result"}')
        assert "error" not in result, f"{function}: {result['error']}\n{self._stderr.read_text()[-2000:]}"
        return result["value"]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._home.cleanup()


def _command(name: str) -> Sequence[str | Path]:
    environment = _ENVIRONMENTS / name
    if (failed := environment / "failed").exists():
        pytest.skip(f"the packages of {name} cannot be installed: {failed.read_text().strip()}")
    assert (environment / "installed").exists(), f"the environment of {name} is not there: `make clients` makes it"
    if (script := _HERE / name / "call.mjs").exists():
        return [environment / "bin" / "node", script]
    return [environment / "bin" / "python", _HERE / "call.py", _HERE / name / "script.py"]
