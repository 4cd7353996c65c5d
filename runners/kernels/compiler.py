"""Kernels, compiled by a process of their own and kept in a folder that is ours alone.

A runner only maps their machine code: Numba, which compiles them, takes a second to start and 80 MB, and what it
compiles takes a core for seconds in which the runner can load its model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import TYPE_CHECKING

import msgspec
from llvmlite import binding

from runners.kernels import CompileError
from runners.kernels.host_cpu import name_and_features
from runners.kernels.layout import ENTRY
from runners.kernels.private_folder import NotPrivateError, PrivateFolder
from runners.kernels.source import KernelSource

if TYPE_CHECKING:
    from runners.kernels.parallel import ParallelKernel

logger = logging.getLogger(__name__)

#: What is compiled takes a tenth of it on a slow core.
_MOST_SECONDS = 300

_PROJECT = Path(__file__).resolve().parents[2]

_DIGEST_BYTES = hashlib.sha256().digest_size


class Compiler:
    """Gives kernels, which it compiles once for this machine.

    Args:
        folder: where they are kept, if this user can write to it and no other. Else they are compiled at every start:
            who can exchange them can have any code run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: PrivateFolder | None = PrivateFolder(folder)
        self._lock, self._distrusting = RLock(), Lock()
        self._compiled: dict[KernelSource, Future[bytes]] = {}
        self._kernels: dict[KernelSource, ParallelKernel] = {}

    def start(self, sources: Iterable[KernelSource]) -> None:
        """Begin to compile what is not kept, all in one process; who asks for one of them waits for it."""
        with self._lock:
            new = [one for one in sources if one not in self._compiled and self._kept(one) is None]
            if not new:
                return
            compiled: dict[KernelSource, Future[bytes]] = {source: Future() for source in new}
            self._compiled.update(compiled)
        # One that nobody waits for must not keep the process from its end.
        Thread(target=self._compile, args=(compiled,), name="kernels", daemon=True).start()

    def kernel(self, source: KernelSource) -> ParallelKernel:
        """The kernel.

        Raises:
            CompileError: it cannot be compiled.
        """
        with self._lock:
            if source not in self._kernels:
                code = self._kept(source)
                if code is None:
                    self.start([source])
                    code = self._compiled[source].result()
                self._kernels[source] = _mapped(code)
            return self._kernels[source]

    def _compile(self, compiled: dict[KernelSource, Future[bytes]]) -> None:
        try:
            codes = _compile(list(compiled))
        except Exception as error:
            for future in compiled.values():
                future.set_exception(error)
            return
        for (source, future), code in zip(compiled.items(), codes, strict=True):
            self._keep(source, code)
            future.set_result(code)

    def _kept(self, source: KernelSource) -> bytes | None:
        if (folder := self._folder) is None:
            return None
        try:
            data = folder.read(_file_of(source))
        except NotPrivateError as error:
            self._distrust(error)
            return None
        except OSError:
            return None
        digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        # A disk that was full, or a machine that went off, leaves part of a file.
        return code if hashlib.sha256(code).digest() == digest else None

    def _keep(self, source: KernelSource, code: bytes) -> None:
        if (folder := self._folder) is None:
            return
        try:
            folder.write(_file_of(source), hashlib.sha256(code).digest() + code)
        except NotPrivateError as error:
            self._distrust(error)
        except OSError as error:
            logger.debug("what is compiled is not kept: %s", error)

    def _distrust(self, error: NotPrivateError) -> None:
        # Not the other lock: who holds that may wait for what is compiled.
        with self._distrusting:
            told, self._folder = self._folder is None, None
        if not told:
            logger.warning(
                "kernels in STORAGE_CACHE are not used and none are kept, as others could exchange them: %s. They are "
                "compiled at every start until it belongs to the server's user, who alone may write to it.",
                error,
            )


def _file_of(source: KernelSource) -> str:
    module, _, function = source.name.partition(":")
    name = "-".join(map(str, (module, function, *source.parameters)))
    return f"{_version_of(module)}/{name}.o"


def _compile(sources: Sequence[KernelSource]) -> list[bytes]:
    """Machine code of each."""
    asked = json.dumps([[source.name, source.parameters] for source in sources])
    command = [sys.executable, "-m", "runners.kernels.sources"]
    try:
        process = subprocess.run(
            command, input=asked.encode(), capture_output=True, cwd=_PROJECT, timeout=_MOST_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"kernels cannot be compiled: {error}") from error
    if process.returncode != 0:
        said = process.stderr.decode(errors="replace").strip()
        logger.debug("kernels cannot be compiled: %s", said)
        reason = said.rpartition("\n")[2] or f"the compiler ended with {process.returncode}"
        raise CompileError(f"kernels cannot be compiled: {reason}")
    return msgspec.msgpack.decode(process.stdout, type=list[bytes])


def _mapped(code: bytes) -> ParallelKernel:
    """Machine code, where it can be called."""
    # Imported here: what is compiled before PyTorch is imported need not wait for it.
    from runners.kernels.parallel import ParallelKernel

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return ParallelKernel(engine.get_function_address(ENTRY), engine)


@cache
def _version_of(module: str) -> str:
    """Tells what is compiled from a module's source from what was compiled from another, or for another processor."""
    spec = find_spec(module)
    files = sorted(Path(__file__).parent.rglob("*.py"))
    if spec is not None and spec.origin is not None:
        files.append(Path(spec.origin))
    digest = hashlib.sha256(repr((version("numba"), version("llvmlite"), *name_and_features())).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
