"""A model's own pipeline, whatever its task: what goes in and comes out is between its code and its clients."""

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

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ServingError, cannot_be_sent
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
from runners.tasks.jsonable import array_or_jsonable
from runners.tasks.media import Place, decode_media, opens_files, opens_texts

logger = logging.getLogger(__name__)

#: Arguments that are the server's business, and one that is the command line of a program.
_RESERVED = frozenset(("batch_size", "device", "num_workers", "stream", "tesseract_config"))
#: Arguments of `generate` that fetch a repository and run its code; refused wherever they stand.
_RUNS_CODE = frozenset(("custom_generate", "trust_remote_code"))
#: Pipelines of these tasks read a text, and answer this one.
_READS_TEXT = ("text-classification", "token-classification", "feature-extraction", "text-generation", "fill-mask")
#: Those that have a processor and read a text all the same.
_SPEAKS = ("text-to-audio", "text-to-speech")


class AnyParameters(Parameters):
    """Handed to the pipeline as they are."""

    model_config = ConfigDict(extra="allow")


class CustomPipelineRunner(Runner[AnyParameters, Any, None, Any]):
    """Calls `pipeline(instance, **parameters)`.

    An instance is any JSON value. An object is handed over as keyword arguments if the pipeline's first argument is in
    it, such as `{"sequences": …, "candidate_labels": […]}` of zero-shot-classification, or if it holds nothing but
    names of arguments. Images and audio are base64 or data: URIs; nothing that a client writes makes a pipeline of
    transformers open a file or an address, or run code.

    The answer is what the pipeline returns: an array of numbers, or JSON, with images as base64 of PNG. An instance
    that came as a tensor of numbers is a numpy array.
    """

    parameters_type = AnyParameters
    pipeline: Callable[..., Any]

    def load(self) -> None:
        checkpoint = fetch(self.settings)
        path = find_custom_pipeline(checkpoint.folder, self.settings)
        assert path is not None, "this is a bug: a runner of this kind is made for models that have such a file"
        self.pipeline = create_pipeline(path, checkpoint.folder, self.settings)
        self._task = getattr(self.pipeline, "task", None)
        self._arguments = _arguments(self.pipeline)
        self._opens_files, self._opens_texts = opens_files(self.pipeline), opens_texts(self.pipeline)

    @property
    def signature(self) -> Signature:
        return Signature()

    @property
    def limits(self) -> BatchLimits:
        # Company gains nothing on a CPU, where transformers pads a batch and computes the padding.
        rows = self.settings.max_batch_size or (8 if torch.cuda.is_available() else 1)
        return BatchLimits(rows, max_tokens=1 << 60)

    def prepare_item(self, item: Item) -> Job[Any, None]:
        """Take the item as it is: what a long text is, only the pipeline knows."""
        _check_names(item.parameters, "parameters")
        job = self.prepare(item.instance, AnyParameters.model_validate(item.parameters))
        return Job([replace(row, inputs=(*row.inputs[:2], item.is_cancelled)) for row in job.rows], None)

    def prepare(self, instance: Any, parameters: AnyParameters) -> Job[Any, None]:
        given = parameters.model_extra or {}
        key = json.dumps(given, sort_keys=True)
        if self._as_keywords(instance):
            _check_names(instance, "")
        if self._opens_files:
            place: Place = "text" if self._task in _SPEAKS else "media"
            instance = decode_media(instance, place, addresses=not self._opens_texts)
            given = decode_media(given, "choice", "parameters", addresses=not self._opens_texts)
        return Job([Row((instance, given, None), length=1, key=key)], None)

    def forward(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        try:
            with cancel_with(_all_of([row.inputs[2] for row in rows])):
                return self._forward(rows)
        except RequestCancelled:
            logger.debug("the pipeline of %s ends early, as nobody waits", self.settings.name)
            return [InferenceFailed("nobody waits for it any more")] * len(rows)

    def _forward(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        instances = [row.inputs[0] for row in rows]
        # Of other code nobody knows what it makes of a list, and of objects and lists neither.
        together = isinstance(self.pipeline, Pipeline) and not any(isinstance(one, dict | list) for one in instances)
        if together and len(rows) > 1:
            results = _call(self.pipeline, instances, batch_size=len(rows), **rows[0].inputs[1])
            if isinstance(results, list) and len(results) == len(rows):
                return [self._answer_or_error(result) for result in results]
        return [self._one(*row.inputs[:2]) for row in rows]

    def finish(self, job: Job[Any, None], outputs: Sequence[Any]) -> Any:
        return outputs[0]

    def warm_up(self) -> None:
        """Answer an example where the task says what one looks like; a pipeline that refuses it may be right to."""
        if self._task not in _READS_TEXT:
            return
        mask = getattr(getattr(self.pipeline, "tokenizer", None), "mask_token", None)
        example = f"A first {mask}." if self._task == "fill-mask" else "A first text."
        parameters = {"max_new_tokens": 2} if self._task == "text-generation" else {}
        try:
            (result,) = self.predict([Item(example, parameters)])
        except Exception as error:
            raise_if_broken(error)
            logger.debug("the pipeline of %s failed on an example", self.settings.name, exc_info=True)
            result = error
        if isinstance(result, Exception):
            logger.warning("%s did not answer an example: %s", self.settings.name, _first_line(result))

    def example_item(self) -> None:
        """Nothing that every pipeline answers is known."""

    def _one(self, instance: Any, parameters: Mapping[str, Any]) -> Any:
        try:
            if self._as_keywords(instance):
                result = _call(self.pipeline, **instance, **parameters)
            else:
                result = _call(self.pipeline, instance, **parameters)
        except ServingError as error:
            return error
        except (TypeError, ValueError) as error:
            raise_if_broken(error)
            # What code says of arguments that it cannot take, as far as anybody can tell from outside.
            logger.debug("the pipeline of %s refused an instance", self.settings.name, exc_info=True)
            said = _first_line(error)
            named = next((name for name in parameters if re.search(rf"['`]{re.escape(name)}['`]", said)), None)
            field = f"parameters.{named}" if named is not None else None
            return InvalidRequest(f"the model's pipeline does not take it: {said}", field=field)
        return self._answer_or_error(result)

    def _answer_or_error(self, result: Any) -> Any:
        try:
            return _call(self._answer, result)
        except (RecursionError, ServingError) as error:
            refusal = error if isinstance(error, ServingError) else cannot_be_sent(error)
        logger.error("an answer of %s cannot be sent: %s", self.settings.name, refusal.message)
        return refusal

    def _as_keywords(self, instance: Any) -> bool:
        if not isinstance(instance, dict) or not self._arguments:
            return False
        return self._arguments[0] in instance or (bool(instance) and instance.keys() <= set(self._arguments))

    def _answer(self, result: Any) -> Any:
        answer = array_or_jsonable(result)
        if self._task != "text-classification":
            return answer
        # As the other runners answer: one list of labels, which transformers nests more, less or not at all.
        if isinstance(answer, dict):
            return [answer]
        nested = isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list)
        return answer[0] if nested else answer


def _all_of(is_cancelled: Sequence[Callable[[], bool] | None]) -> Callable[[], bool]:
    """Tells that nobody waits for any of them."""
    known = [one for one in is_cancelled if one is not None]
    return lambda: len(known) == len(is_cancelled) and all(one() for one in known)


def _arguments(pipeline: Callable[..., Any]) -> tuple[str, ...]:
    """Names that the pipeline's arguments can be given by, in order; none if it does not say."""
    try:
        known = signature(pipeline).parameters
    except (TypeError, ValueError):  # code that is not Python's
        return ()
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return tuple(name for name, argument in known.items() if argument.kind in kinds)


def _check_names(given: Mapping[str, Any], place: str) -> None:
    """Refuse arguments that no client may set.

    Raises:
        InvalidRequest: names the first.
    """
    for name in given:
        path = f"{place}.{name}".removeprefix(".")
        if name in _RESERVED:
            raise InvalidRequest("a custom pipeline does not take it", field=path)
    _check_runs_nothing(given, place)


def _check_runs_nothing(value: Any, place: str) -> None:
    if isinstance(value, list):
        for number, part in enumerate(value):
            _check_runs_nothing(part, f"{place}[{number}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            path = f"{place}.{name}".removeprefix(".")
            if name in _RUNS_CODE:
                raise InvalidRequest("clients do not choose code to run", field=path)
            _check_runs_nothing(part, path)


def _first_line(error: Exception) -> str:
    return (message_of(error).splitlines() or [type(error).__name__])[0][:300]


def _call(code: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call the pipeline's code.

    Raises:
        RuntimeError: it raised what would end a task or this process, such as `SystemExit` or `CancelledError`.
        Exception: whatever else it raised.
    """
    try:
        return code(*args, **options)
    except (RequestCancelled, Exception):
        raise
    except BaseException as error:
        raise RuntimeError(f"the pipeline raised {type(error).__name__}") from error


#: Computes whatever the pipeline does.
RUNNER = CustomPipelineRunner
