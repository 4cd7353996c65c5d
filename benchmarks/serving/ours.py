"""Our server as its users start it, in several precisions or at another revision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from benchmarks.peers.peer import Peer, PeerUnavailable, best, one, vector
from benchmarks.processes import MODEL, ROOT, BenchmarkError, undisturbed
from benchmarks.serving.workloads import WORKLOADS

_TASKS = {workload.name: workload.task for workload in WORKLOADS}


class Ours(Peer):
    """`bentoml serve` of this repository, in float32.

    Attributes:
        root: the folder of the server's code.
        settings: settings of this variant only.
        api_workers: number of processes of its entry service.
    """

    name = "ours"
    key = "ours"
    packages = ("bentoml", "torch", "transformers")
    workloads = frozenset(_TASKS)
    settings: ClassVar[dict[str, str]] = {"TORCH_DTYPE": "float32"}

    def __init__(self, root: Path = ROOT, api_workers: int = 1) -> None:
        self.root, self.api_workers = root, api_workers

    def install(self) -> None:
        """Do nothing, because it runs in the environment of this process."""

    def versions(self) -> dict[str, str]:
        return {"revision": described(self.root), **{name: version(name) for name in self.packages}}

    def command(self, workload: str, model: Path, port: int, threads: int, folder: Path) -> list[str]:
        settings = {
            "MODEL_NAME": MODEL,
            "STORAGE_URI": str(model),
            "TASK": _TASKS[workload],
            "TORCH_NUM_THREADS": str(threads),
            **self.settings,
            **({"API_WORKERS": str(self.api_workers)} if self.api_workers > 1 else {}),
        }
        variables = [f"{name}={value}" for name, value in settings.items()]
        return ["env", *variables, sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "-p", str(port)]

    def environment(self, threads: int) -> dict[str, str]:
        return {"BENTOML_DO_NOT_TRACK": "true", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

    def ready_path(self, workload: str) -> str:
        return "/readyz"

    def path(self, workload: str) -> str:
        return f"/v1/models/{MODEL}:predict"

    def body(self, workload: str, text: str, new_tokens: int = 32) -> dict[str, Any]:
        if workload != "generation":
            return {"instances": [text]}
        parameters = {"max_new_tokens": new_tokens, "ignore_eos": True, "return_full_text": False}
        return {"instances": [text], "parameters": parameters}

    def check(self, workload: str, answer: Any) -> Any:
        prediction = one(answer, "predictions", 0)
        if workload == "classification":
            return best(prediction)
        if workload == "embedding":
            return vector(prediction)
        return str(one(prediction, 0, "generated_text")), None


class OursInt8(Ours):
    """Our server with linear layers computed in int8."""

    name = "ours, int8"
    key = "ours-int8"
    settings: ClassVar[dict[str, str]] = {"TORCH_DTYPE": "float32", "QUANTIZATION": "int8"}


class OursBfloat16(Ours):
    """Our server in bfloat16, on CPUs that compute with it."""

    name = "ours, bfloat16"
    key = "ours-bfloat16"
    settings: ClassVar[dict[str, str]] = {"TORCH_DTYPE": "bfloat16"}

    def install(self) -> None:
        from runners.kernels.instructions import supports_bfloat16

        if not supports_bfloat16():
            raise PeerUnavailable("this CPU has no instructions for bfloat16")


class OursFloat16(Ours):
    """Our server in float16."""

    name = "ours, float16"
    key = "ours-float16"
    settings: ClassVar[dict[str, str]] = {"TORCH_DTYPE": "float16"}


class OursDeviceMap(Ours):
    """Our server in bfloat16, distributed over the devices by accelerate."""

    name = "ours, bfloat16, DEVICE_MAP=auto"
    key = "ours-device-map"
    settings: ClassVar[dict[str, str]] = {"TORCH_DTYPE": "bfloat16", "DEVICE_MAP": "auto"}


class OursEightBit(Ours):
    """Our server with weights in 8 bits."""

    name = "ours, 8 bit"
    key = "ours-8bit"
    settings: ClassVar[dict[str, str]] = {"LOAD_IN_8BIT": "true"}


class OursFourBit(Ours):
    """Our server with weights in 4 bits."""

    name = "ours, 4 bit"
    key = "ours-4bit"
    settings: ClassVar[dict[str, str]] = {"LOAD_IN_4BIT": "true"}


class OursBefore(Ours):
    """Our server at another revision."""

    name = "ours before"
    key = "before"


@contextmanager
def before(revision: str) -> Iterator[OursBefore]:
    """Check out another revision of our server in a working tree that is removed afterwards.

    Raises:
        BenchmarkError: there is no such revision.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder) / "before"
        _git(ROOT, "worktree", "add", "--detach", str(root), revision)
        try:
            yield OursBefore(root)
        finally:
            with undisturbed():
                _git(ROOT, "worktree", "remove", "--force", str(root))


def described(root: Path) -> str:
    """Return the revision of a working tree, with a mark if it has changes."""
    try:
        return _git(root, "describe", "--always", "--dirty=+")
    except BenchmarkError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"git {arguments[0]}: {error.stderr.strip().splitlines()[-1]}") from None
    except OSError as error:
        raise BenchmarkError(f"git: {error}") from None
    return done.stdout.strip()
