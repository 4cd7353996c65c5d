"""Interface between the benchmark and another server that is compared with ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any, ClassVar

from runners.kernels.cores import THREAD_ENVIRONMENT

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parents[1] / ".venv" / "peers"

#: The name of the model in the peers' URLs and bodies.
MODEL = "benchmark"

#: Maximal number of texts in a batch of a peer, and the milliseconds that it may wait for them. A default that a peer
#: recommends replaces them.
BATCH, BATCH_MS = 32, 5

#: Seconds for the installation of a peer; torch alone is hundreds of megabytes.
_INSTALL_TIMEOUT = 3600

_VERSIONS = """\
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class PeerUnavailable(Exception):
    """A peer cannot be measured here; the message gives the reason in one line."""


class Peer(ABC):
    """Server with its installation, command and requests.

    Attributes:
        name: its name in the table.
        key: the name of its environment and of its file of requirements.
        packages: packages whose versions are recorded.
        module: module whose import shows that the installation works.
        removed: packages that it declares as requirements, that conflict with the rest, and that it works without.
        workloads: the supported ones of "classification", "embedding" and "generation".
    """

    name: ClassVar[str]
    key: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    module: ClassVar[str]
    removed: ClassVar[tuple[str, ...]] = ()
    workloads: ClassVar[frozenset[str]]

    def install(self) -> None:
        """Create the environment, unless it exists with the same requirements.

        Raises:
            PeerUnavailable: it cannot be installed.
        """
        requirements = _HERE / "requirements" / f"{self.key}.txt"
        wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
        marker = self._folder / "installed"
        if marker.is_file() and marker.read_text() == wanted:
            return
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._run([sys.executable, "-m", "venv", str(self._folder)])
        pip = [self._python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        self._run([*pip, "install", "--requirement", str(requirements)])
        if self.removed:
            self._run([*pip, "uninstall", "--yes", *self.removed])
        # A compiled extension may not fit this processor, and today's packages may not fit each other.
        self._run([self._python, "-c", f"import {self.module}"])
        marker.write_text(wanted)

    def versions(self) -> dict[str, str]:
        """Return the versions of the relevant installed packages."""
        packages = ("torch", "transformers", *self.packages)
        done = self._run([self._python, "-c", _VERSIONS, *packages])
        versions: dict[str, str] = json.loads(done)
        return versions

    @abstractmethod
    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        """Return the command that starts it on this machine's loopback address.

        Args:
            workload: the workload to serve.
            model: a Hugging Face folder.
            port: the port to listen on.
            threads: number of threads that compute.
            folder: an empty one, for its configuration.
        """

    def environment(self, threads: int) -> dict[str, str]:
        """Return additional variables of its environment."""
        return {
            **THREAD_ENVIRONMENT,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            # This repository's packages have plain names, which must not be found from the current folder.
            "PYTHONPATH": "",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
        }

    @abstractmethod
    def ready_path(self, workload: str) -> str:
        """Return the path where a GET is answered with 200 once the model is loaded."""

    @abstractmethod
    def path(self, workload: str) -> str:
        """Return the path of requests."""

    @abstractmethod
    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        """Return the request for one text, as JSON."""

    @abstractmethod
    def check(self, workload: str, answer: Any) -> Any:
        """Parse an answer.

        Args:
            workload: the workload of the request.
            answer: the parsed JSON.

        Returns:
            For "classification" the index of the best label and its probability; for "embedding" the vector; for
            "generation" the new text and the number of its tokens, None if it is not reported.

        Raises:
            ValueError: it is no answer.
        """

    @property
    def _folder(self) -> Path:
        return _ENVIRONMENTS / self.key

    @property
    def _python(self) -> str:
        return self._script("python")

    def _script(self, name: str) -> str:
        return str(self._folder / "bin" / name)

    def _server(self, name: str) -> list[str]:
        """Return the start of a command that runs one of `servers/`."""
        return [self._python, str(_HERE / "servers" / name)]

    def _run(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT, cwd=self._cwd
            )
        except subprocess.CalledProcessError as error:
            # A processor without the instructions that it was compiled for ends it without a message: SIGILL.
            ended = error.returncode < 0
            why = f"ended by {Signals(-error.returncode).name}" if ended else _last_error(error.stderr)
            raise PeerUnavailable(f"{self.name}: {why}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerUnavailable(f"{self.name}: {error}") from None
        return done.stdout

    @property
    def _cwd(self) -> Path:
        # Away from this repository, whose packages `python -c` would find first.
        return _ENVIRONMENTS if _ENVIRONMENTS.is_dir() else Path("/")


def one(answer: Any, *keys: str | int) -> Any:
    """Return the value at a path of keys and indexes in an answer.

    Raises:
        ValueError: there is none.
    """
    found = answer
    try:
        for key in keys:
            found = found[key]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"not an answer: {str(answer)[:200]}") from None
    return found


def best(scores: Sequence[Any]) -> tuple[int, float]:
    """Return index and probability of the best of the labels LABEL_0, LABEL_1 and so on.

    Raises:
        ValueError: these are no labels with scores.
    """
    label, score = max(((one(each, "label"), one(each, "score")) for each in scores), key=lambda pair: float(pair[1]))
    return int(str(label).removeprefix("LABEL_")), float(score)


def vector(numbers: Any) -> list[float]:
    """Return the values of an embedding.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(numbers, list) or not numbers or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"not an embedding: {str(numbers)[:200]}")
    return [float(number) for number in numbers]


def _last_error(log: str) -> str:
    """Return the most informative line of a log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines or ["it failed without a word"]
    return told[0][:300]
