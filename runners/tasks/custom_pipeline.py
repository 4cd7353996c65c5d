"""Runner of a model's own pipeline, whose code defines its inputs and outputs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import torch
from pydantic import ConfigDict
from transformers import Pipeline

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ServingError, make_encoding_error
from hf_runtime.contract.item import Item
from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.signature import Signature
from runners.engines.device_errors import message_of, raise_if_broken
from runners.engines.rows import BatchLimits, Row
from runners.engines.runner import Job, Runner
from runners.models.custom_code import create_pipeline
from runners.storage.custom_code import find_custom_pipeline
from runners.storage.fetch import fetch
from runners.tasks.cancellation import RequestCancelled, cancel_with
from runners.tasks.jsonable import to_array_or_jsonable
from runners.tasks.media import StringKind, decode_media, opens_files, opens_text_urls

logger = logging.getLogger(__name__)

#: Arguments that the server sets itself, and `tesseract_config`, which is passed to a command line.
_RESERVED = frozenset(("batch_size", "device", "num_workers", "stream", "tesseract_config"))
#: Arguments of `generate` that fetch a repository and run its code; refused at any depth.
_RUNS_CODE = frozenset(("custom_generate", "trust_remote_code"))
#: Tasks whose pipelines take a text, so that an example is known.
_TEXT_TASKS = ("text-classification", "token-classification", "feature-extraction", "text-generation", "fill-mask")
#: Tasks whose pipelines have a processor, but take a text.
_SPEECH_TASKS = ("text-to-audio", "text-to-speech")


class AnyParameters(Parameters):
    """Parameters that are passed to the pipeline unchanged."""

    model_config = ConfigDict(extra="allow")


class CustomPipelineRunner(Runner[AnyParameters, Any, None, Any]):
    """Runner that calls `pipeline(instance, **parameters)`.

    An instance is any JSON value. An object is passed as keyword arguments if it contains the pipeline's first
    argument, such as `{"sequences": …, "candidate_labels": […]}` of zero-shot-classification, or if all its keys are
    names of arguments. Images and audio are base64 or data: URIs. No input of a client makes a pipeline of transformers
    open a file or URL, or run code.

    The answer is what the pipeline returns: a numeric array, or JSON, with images as base64 of PNG. An instance that
    was sent as a numeric tensor is a numpy array.
    """

    parameters_type = AnyParameters
    pipeline: Callable[..., Any]

    def load(self) -> None:
        checkpoint = fetch(self.settings)
        path = find_custom_pipeline(checkpoint.folder, self.settings)
        assert path is not None, "this is a bug: only models with such a file get this runner"
        self.pipeline = create_pipeline(path, checkpoint.folder, self.settings)
        self._task = getattr(self.pipeline, "task", None)
        self._arguments = _argument_names(self.pipeline)
        self._opens_files, self._opens_text_urls = opens_files(self.pipeline), opens_text_urls(self.pipeline)

    @property
    def signature(self) -> Signature:
        return Signature()

    @property
    def limits(self) -> BatchLimits:
        # On a CPU, a larger batch gains nothing, because transformers pads it and computes the padding.
        rows = self.settings.max_batch_size or (8 if torch.cuda.is_available() else 1)
        return BatchLimits(rows, max_tokens=1 << 60)

    def prepare_item(self, item: Item) -> Job[Any, None]:
        """Prepare an item without a limit on its text, because only the pipeline knows one."""
        _check_names(item.parameters, "parameters")
        job = self.prepare(item.instance, AnyParameters.model_validate(item.parameters))
        return Job([replace(row, inputs=(*row.inputs[:2], item.is_cancelled)) for row in job.rows], None)

    def prepare(self, instance: Any, parameters: AnyParameters) -> Job[Any, None]:
        given = parameters.model_extra or {}
        key = json.dumps(given, sort_keys=True)
        if self._as_keywords(instance):
            _check_names(instance, "")
        if self._opens_files:
            kind: StringKind = "text" if self._task in _SPEECH_TASKS else "media"
            instance = decode_media(instance, kind, addresses=not self._opens_text_urls)
            given = decode_media(given, "choice", "parameters", addresses=not self._opens_text_urls)
        return Job([Row((instance, given, None), length=1, key=key)], None)

    def forward(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        try:
            with cancel_with(_all_cancelled([row.inputs[2] for row in rows])):
                return self._call_pipeline(rows)
        except RequestCancelled:
            logger.debug("Model %s: pipeline call cancelled", self.settings.name)
            return [InferenceFailed("its client has left")] * len(rows)

    def _call_pipeline(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        instances = [row.inputs[0] for row in rows]
        # A list is one batch only for transformers' own pipelines, and only if no instance is an object or a list.
        batchable = isinstance(self.pipeline, Pipeline) and not any(isinstance(one, dict | list) for one in instances)
        if batchable and len(rows) > 1:
            results = _call(self.pipeline, instances, batch_size=len(rows), **rows[0].inputs[1])
            if isinstance(results, list) and len(results) == len(rows):
                return [self._answer_or_error(result) for result in results]
        return [self._compute_one(*row.inputs[:2]) for row in rows]

    def finish(self, job: Job[Any, None], outputs: Sequence[Any]) -> Any:
        return outputs[0]

    def warm_up(self) -> None:
        """Answer an example if the task has one; a failure is only logged.

        A pipeline may have reasons to refuse the example.
        """
        if self._task not in _TEXT_TASKS:
            return
        mask = getattr(getattr(self.pipeline, "tokenizer", None), "mask_token", None)
        example = f"A first {mask}." if self._task == "fill-mask" else "A first text."
        parameters = {"max_new_tokens": 2} if self._task == "text-generation" else {}
        try:
            (result,) = self.predict([Item(example, parameters)])
        except Exception as error:
            raise_if_broken(error)
            logger.debug("Model %s: traceback of the failed example", self.settings.name, exc_info=True)
            result = error
        if isinstance(result, Exception):
            logger.warning("Model %s did not answer an example: %s", self.settings.name, _first_line(result))

    def create_example_item(self) -> None:
        """Return None, because no item is valid for every pipeline."""

    def _compute_one(self, instance: Any, parameters: Mapping[str, Any]) -> Any:
        try:
            if self._as_keywords(instance):
                result = _call(self.pipeline, **instance, **parameters)
            else:
                result = _call(self.pipeline, instance, **parameters)
        except ServingError as error:
            return error
        except (TypeError, ValueError) as error:
            raise_if_broken(error)
            # These types most likely mean that an argument is invalid.
            logger.debug("Model %s: pipeline refused an instance", self.settings.name, exc_info=True)
            message = _first_line(error)
            named = next((name for name in parameters if re.search(rf"['`]{re.escape(name)}['`]", message)), None)
            field = f"parameters.{named}" if named is not None else None
            return InvalidRequest(f"the model's pipeline does not take it: {message}", field=field)
        return self._answer_or_error(result)

    def _answer_or_error(self, result: Any) -> Any:
        try:
            return _call(self._build_answer, result)
        except (RecursionError, ServingError) as error:
            refusal = error if isinstance(error, ServingError) else make_encoding_error(error)
        logger.error("Model %s: answer cannot be sent: %s", self.settings.name, refusal.message)
        return refusal

    def _as_keywords(self, instance: Any) -> bool:
        if not isinstance(instance, dict) or not self._arguments:
            return False
        return self._arguments[0] in instance or (bool(instance) and instance.keys() <= set(self._arguments))

    def _build_answer(self, result: Any) -> Any:
        answer = to_array_or_jsonable(result)
        if self._task != "text-classification":
            return answer
        # Like other runners, return one flat list of labels; transformers nests it differently per call.
        if isinstance(answer, dict):
            return [answer]
        nested = isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list)
        return answer[0] if nested else answer


def _all_cancelled(is_cancelled: Sequence[Callable[[], bool] | None]) -> Callable[[], bool]:
    """Return a function that is true once all rows are cancelled."""
    known = [one for one in is_cancelled if one is not None]
    return lambda: len(known) == len(is_cancelled) and all(one() for one in known)


def _argument_names(pipeline: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the pipeline's keyword arguments in order; none if unknown."""
    try:
        known = signature(pipeline).parameters
    except (TypeError, ValueError):  # not implemented in Python
        return ()
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return tuple(name for name, argument in known.items() if argument.kind in kinds)


def _check_names(given: Mapping[str, Any], prefix: str) -> None:
    """Refuse arguments that clients must not set.

    Args:
        prefix: path of the arguments in the request, for messages.

    Raises:
        InvalidRequest: the message names the first such argument.
    """
    for name in given:
        path = f"{prefix}.{name}".removeprefix(".")
        if name in _RESERVED:
            raise InvalidRequest("a custom pipeline does not take it", field=path)
    _check_runs_no_code(given, prefix)


def _check_runs_no_code(value: Any, prefix: str) -> None:
    if isinstance(value, list):
        for number, part in enumerate(value):
            _check_runs_no_code(part, f"{prefix}[{number}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            path = f"{prefix}.{name}".removeprefix(".")
            if name in _RUNS_CODE:
                raise InvalidRequest("clients do not choose code to run", field=path)
            _check_runs_no_code(part, path)


def _first_line(error: Exception) -> str:
    return (message_of(error).splitlines() or [type(error).__name__])[0][:300]


def _call(code: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call the pipeline's code.

    Raises:
        RuntimeError: the code raised an error that would end a task or this process, such as `SystemExit` or
            `CancelledError`.
        Exception: any other error of the code.
    """
    try:
        return code(*args, **options)
    except (RequestCancelled, Exception):
        raise
    except BaseException as error:
        raise RuntimeError(f"the pipeline raised {type(error).__name__}") from error


#: Runner of custom pipelines.
RUNNER = CustomPipelineRunner
