"""The compiler: `python -m runners.kernels.sources` compiles kernels for this processor.

It is asked in JSON on its input, `[[name, [parameter, …]], …]`, and answers with the machine code of each, in
MessagePack. A kernel needs nothing but the C library: what would need Python or Numba while it runs is refused.
"""

from __future__ import annotations

import json
import sys
from pkgutil import resolve_name
from typing import Any

import msgspec
from llvmlite import binding
from numba import njit, types

from runners.kernels.host_cpu import name_and_features
from runners.kernels.layout import ENTRY
from runners.kernels.sources.language import OPTIONS, Kernel

#: What a kernel may leave to others.
_ELSEWHERE = {"malloc", "free", "memcpy", "memmove", "memset", "sqrtf"}

#: Numba's functions return whether they failed, and have places for a result and an error.
_ENTRY = """
define void @{entry}(ptr %call) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{name}"(ptr %result, ptr %error, ptr %call)
  ret void
}}
"""


def machine_code(name: str, parameters: list[Any], machine: binding.TargetMachine) -> bytes:
    """An object file with one function to enter by.

    Args:
        name: of a kernel, or of a function that makes one of its parameters: `package.module:function`.

    Raises:
        ValueError: the kernel needs what is not there when it runs.
    """
    found = resolve_name(name)
    kernel: Kernel = found(*parameters) if parameters else found
    signature = types.void(types.CPointer(types.int64))
    compiled = njit(signature, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(kernel)
    [[given, overload]] = compiled.overloads.items()
    entry = _ENTRY.format(entry=ENTRY, name=overload.fndesc.llvm_func_name)
    module = binding.parse_assembly(compiled.inspect_llvm(given) + entry)
    for function in module.functions:
        if not function.is_declaration and function.name != ENTRY:
            function.linkage = binding.Linkage.internal
    unused = binding.create_new_module_pass_manager()
    unused.add_global_dead_code_eliminate_pass()
    unused.run(module, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    outside = {one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")}
    if missing := outside - _ELSEWHERE:
        raise ValueError(f"{name} needs {', '.join(sorted(missing))}")
    code: bytes = machine.emit_object(module)
    return code


def main() -> None:
    """Compile what is asked for."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    cpu, features = name_and_features()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
    codes = [machine_code(name, parameters, machine) for name, parameters in json.load(sys.stdin)]
    sys.stdout.buffer.write(msgspec.msgpack.encode(codes))


if __name__ == "__main__":
    main()
