"""Run a model's custom pipeline: `create_pipeline()` of its `custom_pipeline.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings
from runners.storage.custom_code import FILE, find_allowed_pipeline

logger = logging.getLogger(__name__)

_FUNCTION = "create_pipeline"
_MODULE = "custom_pipeline"
#: Folder name under which a custom pipeline may look for the model.
_MODEL = "model"


def warn_of_unused_pipeline(folder: Path, settings: ModelSettings) -> None:
    """Log a warning if the model has a custom pipeline that the settings do not allow."""
    if (folder / FILE).is_file() and find_allowed_pipeline(settings) is None:
        logger.warning(
            "%s has a %s, which is not run; set TRUST_REMOTE_CODE=true, or CUSTOM_PIPELINE=%s, if you trust it.",
            settings.shown_uri, FILE, FILE,
        )  # fmt: skip


def create_pipeline(path: Path, folder: Path, settings: ModelSettings) -> Callable[..., Any]:
    """Call `create_pipeline()` of the file and return its result.

    The current directory is a view of the model's folder, and `./model` is another link to it unless the folder has
    such an entry, because pipelines use both paths. Modules next to the file can be imported.

    Raises:
        LoadError: it fails, or its result is not callable.
    """
    uri = settings.shown_uri
    with TemporaryDirectory(prefix="custom-pipeline-") as view:
        for entry in folder.resolve().iterdir():
            (Path(view) / entry.name).symlink_to(entry)
        with contextlib.suppress(FileExistsError):
            (Path(view) / _MODEL).symlink_to(folder.resolve())
        try:
            with contextlib.chdir(view):
                pipeline: Any = _load_function(path)()
        except (Exception, SystemExit) as error:
            logger.debug("%s failed", path, exc_info=True)
            raise LoadError(f"{uri}: {_FUNCTION}() in {path.name} failed: {_describe_error(error)}") from error
    if not callable(pipeline):
        raise LoadError(f"{uri}: {_FUNCTION}() in {path.name} returns nothing that can be called.")
    _apply_return_all_scores(pipeline)
    return cast("Callable[..., Any]", pipeline)


def _load_function(path: Path) -> Callable[[], Any]:
    # Last in the list, so that it cannot replace a module of this server that has the same name.
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise LookupError("its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look up their module by name; the file's own name could belong to this server.
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, _FUNCTION, None)):
        raise LookupError(f"it does not define {_FUNCTION}()")
    return cast("Callable[[], Any]", getattr(module, _FUNCTION))


def _describe_error(error: BaseException) -> str:
    """Return the type and first line of an error, without transformers' list of all its tasks."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    first = re.split(r"\n|, available tasks are", text.strip(), maxsplit=1)[0][:300].rstrip(".")
    return f"{type(error).__name__}: {first}."


def _apply_return_all_scores(pipeline: Any) -> None:
    """Convert the old option `return_all_scores` to `top_k`.

    transformers 5 passes it to the tokenizer, which ignores it. True means `top_k=None`, False means `top_k=1`.
    """
    options = getattr(pipeline, "_preprocess_params", {})
    if getattr(pipeline, "task", None) == "text-classification" and "return_all_scores" in options:
        everything = options.pop("return_all_scores")
        pipeline._postprocess_params.setdefault("top_k", None if everything else 1)
        pipeline._postprocess_params["_legacy"] = False
