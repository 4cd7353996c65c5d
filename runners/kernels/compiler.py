"""Compile kernels in a separate process, and cache their machine code in a private folder.

Runners only map the machine code. Numba takes a second to import and 80 MB of memory, and compiles for seconds while
the runner loads its model.
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
from runners.kernels.host_cpu import get_name_and_features
from runners.kernels.kernel_source import KernelSource
from runners.kernels.layout import ENTRY_NAME
from runners.kernels.private_folder import NotPrivateError, PrivateFolder

if TYPE_CHECKING:
    from runners.kernels.parallel import ParallelKernel

logger = logging.getLogger(__name__)

#: Timeout of the compiler; it needs a tenth of it on a slow core.
_TIMEOUT_SECONDS = 300

_PROJECT = Path(__file__).resolve().parents[2]

_DIGEST_BYTES = hashlib.sha256().digest_size


class Compiler:
    """Cache of kernels, which are compiled once for this machine.

    Args:
        folder: folder of the machine code. It is not used if other users can write to it, as they could replace the
            code that is executed; kernels are then compiled at every start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: PrivateFolder | None = PrivateFolder(folder)
        self._lock, self._folder_lock = RLock(), Lock()
        self._compiled: dict[KernelSource, Future[bytes]] = {}
        self._kernels: dict[KernelSource, ParallelKernel] = {}

    def start_compiling(self, sources: Iterable[KernelSource]) -> None:
        """Start to compile the kernels that are not cached, in one process.

        `get_kernel` waits for them.
        """
        with self._lock:
            new = [one for one in sources if one not in self._compiled and self._read_cached(one) is None]
            if not new:
                return
            compiled: dict[KernelSource, Future[bytes]] = {source: Future() for source in new}
            self._compiled.update(compiled)
        # A daemon, so that the process can exit while kernels are still compiled.
        Thread(target=self._compile_and_cache, args=(compiled,), name="kernels", daemon=True).start()

    def get_kernel(self, source: KernelSource) -> ParallelKernel:
        """Return a kernel; compile it first if it is not cached.

        Raises:
            CompileError: the kernel cannot be compiled.
        """
        with self._lock:
            if source not in self._kernels:
                code = self._read_cached(source)
                if code is None:
                    self.start_compiling([source])
                    code = self._compiled[source].result()
                self._kernels[source] = _load_kernel(code)
            return self._kernels[source]

    def _compile_and_cache(self, compiled: dict[KernelSource, Future[bytes]]) -> None:
        try:
            codes = _compile_sources(list(compiled))
        except Exception as error:
            for future in compiled.values():
                future.set_exception(error)
            return
        for (source, future), code in zip(compiled.items(), codes, strict=True):
            self._write_cached(source, code)
            future.set_result(code)

    def _read_cached(self, source: KernelSource) -> bytes | None:
        if (folder := self._folder) is None:
            return None
        try:
            data = folder.read(_build_file_name(source))
        except NotPrivateError as error:
            self._stop_using_folder(error)
            return None
        except OSError:
            return None
        digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        # A full disk or a power failure may leave part of a file.
        return code if hashlib.sha256(code).digest() == digest else None

    def _write_cached(self, source: KernelSource, code: bytes) -> None:
        if (folder := self._folder) is None:
            return
        try:
            folder.write(_build_file_name(source), hashlib.sha256(code).digest() + code)
        except NotPrivateError as error:
            self._stop_using_folder(error)
        except OSError as error:
            logger.debug("Compiled kernels cannot be cached: %s", error)

    def _stop_using_folder(self, error: NotPrivateError) -> None:
        # Not `_lock`: a thread that holds it may wait for the compiler.
        with self._folder_lock:
            reported, self._folder = self._folder is None, None
        if not reported:
            logger.warning(
                "Compiled kernels in STORAGE_CACHE are neither used nor stored, as other users could replace them: %s. "
                "They are compiled at every start until it belongs to the server's user and no other user may write "
                "to it.",
                error,
            )


def _build_file_name(source: KernelSource) -> str:
    module, _, function = source.name.partition(":")
    name = "-".join(map(str, (module, function, *source.parameters)))
    return f"{_hash_sources(module)}/{name}.o"


def _compile_sources(sources: Sequence[KernelSource]) -> list[bytes]:
    """Compile kernels in another process, and return the machine code of each."""
    request = json.dumps([[source.name, source.parameters] for source in sources])
    command = [sys.executable, "-m", "runners.kernels.sources"]
    try:
        process = subprocess.run(
            command, input=request.encode(), capture_output=True, cwd=_PROJECT, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"kernels cannot be compiled: {error}") from error
    if process.returncode != 0:
        stderr = process.stderr.decode(errors="replace").strip()
        logger.debug("kernels cannot be compiled: %s", stderr)
        reason = stderr.rpartition("\n")[2] or f"the compiler ended with {process.returncode}"
        raise CompileError(f"kernels cannot be compiled: {reason}")
    return msgspec.msgpack.decode(process.stdout, type=list[bytes])


def _load_kernel(code: bytes) -> ParallelKernel:
    """Load machine code into memory."""
    # Imported here, because it imports PyTorch, and compiling can start before that.
    from runners.kernels.parallel import ParallelKernel

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return ParallelKernel(engine.get_function_address(ENTRY_NAME), engine)


@cache
def _hash_sources(module: str) -> str:
    """Return a hash of the kernels' source, the compiler's versions and the CPU."""
    spec = find_spec(module)
    files = sorted(Path(__file__).parent.rglob("*.py"))
    if spec is not None and spec.origin is not None:
        files.append(Path(spec.origin))
    digest = hashlib.sha256(repr((version("numba"), version("llvmlite"), *get_name_and_features())).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
