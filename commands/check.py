"""Report what a configuration resolves to, with sizes, before any model is loaded.

python -m commands.check [PATH]
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, ByteSize, SecretStr

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings, SettingsError, load_settings
from hf_runtime.settings.uri import is_local
from runners.models.architecture import resolve_task
from runners.models.memory import Footprint, estimate_footprint, footprint, format_precision, measure_free_device_memory
from runners.storage.checkpoint import ADAPTER_CONFIG
from runners.storage.custom_code import find_allowed_pipeline
from runners.storage.disk import format_size
from runners.storage.fetch import RemoteFile, check_uri, fetch, list_files, read_config
from runners.storage.files import choose_weights


def main() -> int:
    """Print one paragraph per model.

    The exit status is 1 if a model cannot be served with its configuration.
    """
    parser = argparse.ArgumentParser(prog="python -m commands.check", description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, help="InferenceServices; the environment if left out")
    try:
        settings = load_settings(parser.parse_args().config)
    except SettingsError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if not settings.models:
        print("Error: STORAGE_URI is not set, and no file of InferenceServices is given.", file=sys.stderr)
        return 1
    for note in settings.notes:
        print(f"Note: {note}")
    return max([_print_model(model) for model in settings.models])


def _print_model(model: ModelSettings) -> int:
    print(model.name)
    try:
        for title, text in describe(model):
            print(f"  {title:<9} {text}", flush=True)
    except LoadError as error:
        print(f"  {'error':<9} {error}", flush=True)
        return 1
    return 0


def describe(model: ModelSettings) -> Iterator[tuple[str, str]]:
    """Yield titles and texts that describe a model before it is loaded.

    Raises:
        LoadError: the model cannot be served. The values yielded before are still valid.
    """
    yield "from", model.shown_uri
    yield "settings", ", ".join(_explicit_settings(model)) or "all by default"
    check_uri(model)
    files = list_files(model)
    yield "files", _describe_files(files)
    own_code = find_allowed_pipeline(model)
    if own_code is not None and own_code in [file.path for file in files]:
        yield "task", f"{model.requested_task or 'that'} of {own_code}, which is the model's own code"
    else:
        resolved = resolve_task(model, own_code=own_code is not None)
        yield "task", f"{resolved.task}{'' if model.task else ', by its config'}"
    if any(file.path == ADAPTER_CONFIG for file in files):
        config = read_config(model, ADAPTER_CONFIG) or {}
        yield "base", model.base_model or str(config.get("base_model_name_or_path"))
    yield "runs on", _describe_device(model)
    yield from _describe_memory(model, files)


def _explicit_settings(model: ModelSettings) -> Iterator[str]:
    """Yield the explicit settings as variables, except the ones with their own line."""
    for name in sorted(model.model_fields_set - {"name", "storage_uri", "requested_task"}):
        alias = type(model).model_fields[name].validation_alias
        if alias is not None:
            variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else alias
            yield f"{variable}={_format_value(getattr(model, name))}"


def _format_value(value: Any) -> str:
    match value:
        case SecretStr():
            return "[hidden]"
        case ByteSize():
            return format_size(value)
        case _:
            return str(value)


def _describe_files(files: list[RemoteFile]) -> str:
    sizes = [file.size for file in files]
    known = sum(size for size in sizes if size is not None)
    missing = sum(file.size or 0 for file in files if not file.cached)
    where = f"{format_size(missing)} to fetch" if missing else "all here"
    return f"{len(files)}, {'at least ' if None in sizes else ''}{format_size(known)}, {where}"


def _describe_device(model: ModelSettings) -> str:
    gpus = torch.cuda.device_count()
    if gpus:
        device = f"{model.gpus:g} of {gpus} GPUs" if model.gpus else "the first GPU"
    else:
        device = "the CPU" + (f" (GPUS={model.gpus:g}, and none is here)" if model.gpus else "")
    replicas = f", {model.replicas} runners" if model.replicas > 1 else ""
    return f"{device}, in {format_precision(model)}{replicas}"


def _describe_memory(model: ModelSettings, files: list[RemoteFile]) -> Iterator[tuple[str, str]]:
    size = _expected_footprint(model, files)
    if size is None:
        return
    if size.parameters is not None:
        yield "weights", f"{size.parameters / 1e6:.1f} million"
    if size.memory is None:
        yield "memory", f"more than the {format_size(size.disk)} of its files, which are unpacked"
        return
    free = measure_free_device_memory(model)
    yield "memory", f"about {format_size(size.memory)} of {format_size(free)} that are free"
    if size.memory > free and model.device_map is None:
        raise LoadError("it does not fit; use a smaller TORCH_DTYPE, LOAD_IN_8BIT or LOAD_IN_4BIT, or more memory.")


def _expected_footprint(model: ModelSettings, files: list[RemoteFile]) -> Footprint | None:
    """Return the memory that the model needs; None for a remote archive."""
    if is_local(model.storage_uri):
        return footprint(fetch(model), model)
    weights = choose_weights([file.path for file in files], model.gguf_file)
    size = sum(file.size or 0 for file in files if file.path in weights)
    if not weights:
        return None
    if weights[0].endswith(".gguf"):
        return Footprint(None, size, None)
    return estimate_footprint(size, read_config(model) or {}, model)


if __name__ == "__main__":
    # Hide warnings about the few small files that are fetched, and about attempts that fail before one succeeds.
    logging.disable(logging.WARNING)
    sys.exit(main())
