"""A model's own pipeline, whatever its task: what goes in and comes out is between its code and its clients."""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict

from batching.rows import BatchLimits, Row
from errors import InferenceFailed, InvalidRequest, ServingError
from loading.custom_code import create_pipeline, find_custom_pipeline
from loading.storage import fetch
from runners.base import Item, Job, Runner
from runners.parameters import Parameters

logger = logging.getLogger(__name__)

#: Parameters that are the server's business.
_RESERVED = ("batch_size", "device", "num_workers", "stream")
#: Pipelines of these tasks read a text, and answer this one.
_READS_TEXT = ("text-classification", "token-classification", "feature-extraction", "text-generation", "fill-mask")


class AnyParameters(Parameters):
    """Handed to the pipeline as they are."""

    model_config = ConfigDict(extra="allow")


class CustomPipelineRunner(Runner[AnyParameters, Any, None, Any]):
    """Calls `pipeline(instance, **parameters)`.

    An instance is any JSON value. An object with the name of the pipeline's first argument in it, such as
    `{"sequences": …, "candidate_labels": […]}` of zero-shot-classification, is handed over as keyword arguments. Images
    and audio are base64 or data: URIs; nothing that a client writes makes the server open a file or an address.

    The answer is what the pipeline returns, as JSON; images as base64 of PNG.
    """

    parameters_type = AnyParameters
    pipeline: Callable[..., Any]

    def load(self) -> None:
        checkpoint = fetch(self.settings)
        path = find_custom_pipeline(checkpoint.folder, self.settings)
        assert path is not None, "this is a bug: a runner of this kind is made for models that have such a file"
        self.pipeline = create_pipeline(path, checkpoint.folder, self.settings)
        self._first = _first_argument(self.pipeline)
        self._reads_files = any(
            getattr(self.pipeline, part, None) is not None for part in ("image_processor", "feature_extractor")
        )

    @property
    def limits(self) -> BatchLimits:
        # Company gains nothing on a CPU, where transformers pads a batch and computes the padding.
        rows = self.settings.max_batch_size or (8 if torch.cuda.is_available() else 1)
        return BatchLimits(rows, max_tokens=1 << 60)

    def prepare_item(self, item: Item) -> Job[Any, None]:
        """Take the item as it is: what a long text is, only the pipeline knows."""
        for name in _RESERVED:
            if name in item.parameters:
                raise InvalidRequest(f"parameters.{name}: a custom pipeline does not take it")
        return self.prepare(item.instance, AnyParameters.model_validate(item.parameters))

    def prepare(self, instance: Any, parameters: AnyParameters) -> Job[Any, None]:
        given = parameters.model_extra or {}
        if self._reads_files:
            instance = _without_addresses(instance)
        key = json.dumps(given, sort_keys=True)
        return Job([Row((instance, given), length=1, key=key)], None)

    def forward(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        if len(rows) == 1:
            return [self._one(*rows[0].inputs)]
        instances = [row.inputs[0] for row in rows]
        if any(self._as_keywords(instance) for instance in instances):
            return [self._one(*row.inputs) for row in rows]
        results = self.pipeline(instances, batch_size=len(rows), **rows[0].inputs[1])
        if not isinstance(results, list) or len(results) != len(rows):
            return [self._one(*row.inputs) for row in rows]
        return [self._answer(result) for result in results]

    def finish(self, job: Job[Any, None], outputs: Sequence[Any]) -> Any:
        return outputs[0]

    def warm_up(self) -> None:
        """Answer an example where the task says what one looks like; a pipeline that refuses it may be right to."""
        task = getattr(self.pipeline, "task", None)
        if task not in _READS_TEXT:
            return
        mask = getattr(getattr(self.pipeline, "tokenizer", None), "mask_token", None)
        example = f"A first {mask}." if task == "fill-mask" else "A first text."
        parameters = {"max_new_tokens": 2} if task == "text-generation" else {}
        (result,) = self.predict([Item(example, parameters)])
        if isinstance(result, ServingError):
            logger.warning("%s did not answer an example: %s", self.settings.name, result.message)

    def _one(self, instance: Any, parameters: Mapping[str, Any]) -> Any:
        try:
            if self._as_keywords(instance):
                return self._answer(self.pipeline(**instance, **parameters))
            return self._answer(self.pipeline(instance, **parameters))
        except ServingError as error:
            return error
        except (TypeError, ValueError) as error:
            # What code says of arguments that it cannot take, as far as anybody can tell from outside.
            logger.debug("the pipeline of %s refused an instance", self.settings.name, exc_info=True)
            said = (str(error).splitlines() or [type(error).__name__])[0][:300]
            return InvalidRequest(f"the model's pipeline does not take it: {said}")

    def _as_keywords(self, instance: Any) -> bool:
        return isinstance(instance, dict) and self._first in instance

    def _answer(self, result: Any) -> Any:
        answer = _jsonable(result)
        if getattr(self.pipeline, "task", None) == "text-classification":
            # As the other runners answer: one list of labels, which transformers nests more, less or not at all.
            return [answer] if isinstance(answer, dict) else answer[0] if isinstance(answer[0], list) else answer
        return answer


def _first_argument(pipeline: Callable[..., Any]) -> str | None:
    """Name of the pipeline's first argument; None if it has none of its own."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return next((name for name, argument in signature(pipeline).parameters.items() if argument.kind in kinds), None)


def _without_addresses(instance: Any) -> Any:
    """An instance of a pipeline that would open a string as a file or an address, with the bytes in its place.

    Raises:
        InvalidRequest: a string is neither base64 nor a data: URI.
    """
    match instance:
        case str():
            return _decoded(instance)
        case list():
            return [_without_addresses(part) for part in instance]
        case dict():
            names = {"image", "images", "audio", "video", "inputs", "raw"}
            return {key: _without_addresses(value) if key in names else value for key, value in instance.items()}
        case _:
            return instance


def _decoded(text: str) -> Any:
    header, separator, payload = text.partition(";base64,")
    if text.startswith("data:") and not separator:
        raise InvalidRequest("a data: URI must be base64")
    try:
        content = base64.b64decode(payload if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("must be base64 or a data: URI; files and addresses are not opened") from None
    if header.startswith("data:audio"):
        return content
    try:
        from PIL import Image, UnidentifiedImageError  # only pipelines that read images need it
    except ImportError:
        return content
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except UnidentifiedImageError:
        return content


def _jsonable(value: Any) -> Any:
    """Plain values from what pipelines return.

    Raises:
        InferenceFailed: there is something that JSON has no form for.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.ndarray() | np.generic():
            return value.tolist()
        case torch.Tensor():
            return value.detach().cpu().float().tolist() if value.is_floating_point() else value.detach().cpu().tolist()
        case Mapping():
            return {str(key): _jsonable(part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_jsonable(part) for part in value]
        case bytes():
            return base64.b64encode(value).decode()
    if is_dataclass(value) and not isinstance(value, type):
        return _jsonable(asdict(value))
    if hasattr(value, "save") and hasattr(value, "getbands"):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    raise InferenceFailed(f"the model's pipeline returns a {type(value).__name__}, which JSON has no form for")
