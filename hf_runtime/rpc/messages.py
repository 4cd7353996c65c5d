"""Messages between the entry service and runners, encoded as MessagePack.

A frame is a list of all messages that were queued while the previous frame was being sent. Under load, one frame
carries the items of many requests, and no message waits for others.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tokenization import TokenizerRequest

_NDARRAY = 1


class Submit(msgspec.Struct, tag="submit", array_like=True, frozen=True):
    """Request to compute one item: an instance and its own parameters.

    With `stream`, the answer is `Accepted`, then any number of `Delta`, then `Result` without a value.
    `request_context` identifies the request in the runner's logs and traces.
    """

    id: int
    instance: Any
    parameters: dict[str, Any]
    stream: bool = False
    request_context: RequestContext | None = None


class UseTokenizer(msgspec.Struct, tag="tokenizer", array_like=True, frozen=True):
    """Request to tokenize or detokenize; the reply is `Result` or `Failure`."""

    id: int
    request: TokenizerRequest
    request_context: RequestContext | None = None


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """Notice that the item's client has disconnected and its result is not needed."""

    id: int


class Load(msgspec.Struct, tag="load", array_like=True, frozen=True):
    """Command to load the model if it is not loaded.

    The runner sends the new state, then `Result` without a value, or `Failure`.
    """

    id: int


class Unload(msgspec.Struct, tag="unload", array_like=True, frozen=True):
    """Command to finish all items and unload the model; the replies are those to `Load`."""

    id: int


class Accepted(msgspec.Struct, tag="accepted", array_like=True, frozen=True):
    """Notice that a streamed item is valid and queued."""

    id: int


class Delta(msgspec.Struct, tag="delta", array_like=True, frozen=True):
    """Part of the answer to a streamed item; parts arrive in order."""

    id: int
    value: Any


class Result(msgspec.Struct, tag="result", array_like=True, frozen=True):
    """Complete answer to one item."""

    id: int
    value: Any


class Failure(msgspec.Struct, tag="failure", array_like=True, frozen=True):
    """Error of one item; `code` names the class in `hf_runtime.contract.errors`."""

    id: int
    code: str
    reason: str
    field: str | None = None
    retry_after: int | None = None


ModelStatus = Literal["loading", "ready", "failed", "unloading", "unloaded"]


class ModelState(msgspec.Struct, tag="state", array_like=True, frozen=True):
    """State of a runner's model, sent when a client connects and on every change.

    A model is `unloading` or `unloaded` only after an `Unload` command.

    Attributes:
        reason: why the model failed.
        signature: inputs and outputs of the model, once it is ready.
        stopped: the model failed after it had been loaded.
        retried: the failure may be temporary, and the runner will load the model again.
        task: the model's task, once it is ready; None if the model's own code defines it.
        context_length: most tokens of an input and its answer, once the model is ready; None if it is unknown.
    """

    status: ModelStatus
    reason: str | None = None
    signature: Signature | None = None
    stopped: bool = False
    retried: bool = False
    task: str | None = None
    context_length: int | None = None

    @property
    def is_final(self) -> bool:
        """True if the model has failed and the runner will not retry."""
        return self.status == "failed" and not self.retried

    def refusal(self, name: str) -> ModelNotReady:
        """Return the error for a request to the model, which must not be ready."""
        message = f"Model with name {name} is not ready."
        match self.status:
            case "unloading" | "unloaded":
                # Without retry_after: an unloaded model does not come back by itself.
                return ModelNotReady(f"{message} It was unloaded.")
            case "failed":
                message += f" It {'stopped' if self.stopped else 'could not be loaded'}: {self.reason}"
        return ModelNotReady(message, retry_after=5)


ToRunner = Submit | UseTokenizer | Cancel | Load | Unload
FromRunner = Accepted | Delta | Result | Failure | ModelState


class _ItemHeader(msgspec.Struct, array_like=True, frozen=True):
    """Fields that all messages about items have in common."""

    kind: str
    id: int


def _encode_extra(value: Any) -> Any:
    match value:
        case np.ndarray() if value.dtype.kind in "biuf":
            contiguous = np.ascontiguousarray(value)
            packed = msgspec.msgpack.encode((contiguous.dtype.str, contiguous.shape, contiguous.data))
            return msgspec.msgpack.Ext(_NDARRAY, packed)
        case np.ndarray() if value.dtype.kind == "U":
            return value.tolist()
        # msgspec calls this hook for subclasses of these types, such as numpy.float64.
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str.__str__(value)
    raise TypeError(f"a {type(value).__name__} cannot travel between services")


def _decode_extra(code: int, data: memoryview) -> Any:
    if code == _NDARRAY:
        dtype, shape, buffer = msgspec.msgpack.decode(data)
        return np.frombuffer(buffer, dtype=np.dtype(dtype)).reshape(shape)
    raise ValueError(f"unknown extension type {code}")


encode_frame = msgspec.msgpack.Encoder(enc_hook=_encode_extra).encode
#: Return the messages of a frame undecoded, so that an invalid one does not affect the others.
decode_frame = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
decode_to_runner = msgspec.msgpack.Decoder(ToRunner, ext_hook=_decode_extra).decode
decode_from_runner = msgspec.msgpack.Decoder(FromRunner, ext_hook=_decode_extra).decode


def item_of(message: msgspec.Raw) -> int:
    """Return the id of the item that a message is about.

    Raises:
        msgspec.DecodeError: the message is not about an item.
    """
    return msgspec.msgpack.decode(message, type=_ItemHeader).id
