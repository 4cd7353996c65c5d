"""Run the pipeline that a model brings as code: `create_pipeline()` of its `custom_pipeline.py`."""

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
from runners.storage.custom_code import FILE, allowed_pipeline

logger = logging.getLogger(__name__)

_FUNCTION = "create_pipeline"
_MODULE = "custom_pipeline"
#: What a custom pipeline calls the folder of the model.
_MODEL = "model"


def warn_of_unused_pipeline(folder: Path, settings: ModelSettings) -> None:
    """Say so if there is a custom pipeline and nobody lets it run."""
    if (folder / FILE).is_file() and allowed_pipeline(settings) is None:
        logger.warning(
            "%s has a %s, which is not run; set TRUST_REMOTE_CODE=true, or CUSTOM_PIPELINE=%s, if you trust it.",
            settings.shown_uri, FILE, FILE,
        )  # fmt: skip


def create_pipeline(path: Path, folder: Path, settings: ModelSettings) -> Callable[..., Any]:
    """What `create_pipeline()` of the file returns.

    It runs where `./` is the model's folder, and `./model` too unless there is such a folder in it: both places are
    usual for the file. Modules beside it can be imported.

    Raises:
        LoadError: it fails, or returns nothing that can be called.
    """
    uri = settings.shown_uri
    with TemporaryDirectory(prefix="custom-pipeline-") as view:
        for entry in folder.resolve().iterdir():
            (Path(view) / entry.name).symlink_to(entry)
        with contextlib.suppress(FileExistsError):
            (Path(view) / _MODEL).symlink_to(folder.resolve())
        try:
            with contextlib.chdir(view):
                pipeline: Any = _function(path)()
        except (Exception, SystemExit) as error:
            logger.debug("%s failed", path, exc_info=True)
            raise LoadError(f"{uri}: {_FUNCTION}() in {path.name} failed: {_said(error)}") from error
    if not callable(pipeline):
        raise LoadError(f"{uri}: {_FUNCTION}() in {path.name} returns nothing that can be called.")
    _heed_return_all_scores(pipeline)
    return cast("Callable[..., Any]", pipeline)


def _function(path: Path) -> Callable[[], Any]:
    # Behind everything else: a module of the same name as one of this server's must not take its place.
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise LookupError("its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up; the file's own name could be that of one of this server's.
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, _FUNCTION, None)):
        raise LookupError(f"it does not define {_FUNCTION}()")
    return cast("Callable[[], Any]", getattr(module, _FUNCTION))


def _said(error: BaseException) -> str:
    """The first line of an error; transformers' own for a task that it has no pipeline for lists all that it has."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    first = re.split(r"\n|, available tasks are", text.strip(), maxsplit=1)[0][:300].rstrip(".")
    return f"{type(error).__name__}: {first}."


def _heed_return_all_scores(pipeline: Any) -> None:
    """transformers 5 hands the old option to the tokenizer, which ignores it; it meant what `top_k=None` means now."""
    options = getattr(pipeline, "_preprocess_params", {})
    if getattr(pipeline, "task", None) == "text-classification" and "return_all_scores" in options:
        everything = options.pop("return_all_scores")
        pipeline._postprocess_params.setdefault("top_k", None if everything else 1)
        pipeline._postprocess_params["_legacy"] = False
