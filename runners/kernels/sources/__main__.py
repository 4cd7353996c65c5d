"""Compiler of kernels for this CPU: `python -m runners.kernels.sources`.

It reads JSON from its standard input, `[[name, [parameter, …]], …]`, and writes the machine code of each kernel to its
standard output as MessagePack. A kernel may only use the C library: one that needs Python or Numba is refused.
"""

from __future__ import annotations

import json
import sys
from pkgutil import resolve_name
from typing import Any

import msgspec
from llvmlite import binding
from numba import njit, types

from runners.kernels.host_cpu import get_name_and_features
from runners.kernels.layout import ENTRY_NAME
from runners.kernels.sources.language import OPTIONS, Kernel

#: External functions that a kernel may call.
_ALLOWED = {"malloc", "free", "memcpy", "memmove", "memset", "sqrtf"}

#: Entry of a kernel: calls Numba's function, which needs memory for a result and an error, and returns a status.
_ENTRY = """
define void @{entry}(ptr %call) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{name}"(ptr %result, ptr %error, ptr %call)
  ret void
}}
"""


def compile_kernel(name: str, parameters: list[Any], machine: binding.TargetMachine) -> bytes:
    """Compile a kernel to an object file with one public function.

    Args:
        name: `package.module:function` of the kernel, or of a function that returns it if there are parameters.
        parameters: arguments of that function.
        machine: the CPU to compile for.

    Raises:
        ValueError: the kernel calls functions that do not exist when it runs.
    """
    found = resolve_name(name)
    kernel: Kernel = found(*parameters) if parameters else found
    signature = types.void(types.CPointer(types.int64))
    compiled = njit(signature, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(kernel)
    [[argument_types, overload]] = compiled.overloads.items()
    entry = _ENTRY.format(entry=ENTRY_NAME, name=overload.fndesc.llvm_func_name)
    module = binding.parse_assembly(compiled.inspect_llvm(argument_types) + entry)
    for function in module.functions:
        if not function.is_declaration and function.name != ENTRY_NAME:
            function.linkage = binding.Linkage.internal
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    external = {one.name for one in module.functions if one.is_declaration and not one.name.startswith("llvm.")}
    if missing := external - _ALLOWED:
        raise ValueError(f"{name} needs {', '.join(sorted(missing))}")
    code: bytes = machine.emit_object(module)
    return code


def main() -> None:
    """Compile the kernels that standard input names."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    cpu, features = get_name_and_features()
    machine = binding.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
    codes = [compile_kernel(name, parameters, machine) for name, parameters in json.load(sys.stdin)]
    sys.stdout.buffer.write(msgspec.msgpack.encode(codes))


if __name__ == "__main__":
    main()
