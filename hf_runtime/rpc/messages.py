"""Messages on the wire, as MessagePack.

A frame is a list of messages: whatever gathered while the previous frame was being sent. That makes one frame carry
many requests' items under load without anybody waiting for company.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.contract.signature import Signature
from hf_runtime.settings import Task

_NDARRAY = 1


class Submit(msgspec.Struct, tag="submit", array_like=True, frozen=True):
    """One item to compute: an instance with the parameters that concern it alone.

    If `stream`, the answer comes in pieces: `Accepted`, then any number of `Delta`, then `Result` without a value.
    `request_context` is the request, for the runner's logs and traces.
    """

    id: int
    instance: Any
    parameters: dict[str, Any]
    stream: bool = False
    request_context: RequestContext | None = None


class Cancel(msgspec.Struct, tag="cancel", array_like=True, frozen=True):
    """The item's client has gone; its result is not wanted any more."""

    id: int


class Load(msgspec.Struct, tag="load", array_like=True, frozen=True):
    """Load the model if it is not loaded; answered by `Result` without a value, or `Failure`, after its state."""

    id: int


class Unload(msgspec.Struct, tag="unload", array_like=True, frozen=True):
    """Finish what is there and drop the model; answered as `Load`."""

    id: int


class Accepted(msgspec.Struct, tag="accepted", array_like=True, frozen=True):
    """The item of a stream is valid and has a place in the queue."""

    id: int


class Delta(msgspec.Struct, tag="delta", array_like=True, frozen=True):
    """A part of the answer to one item of a stream, in order."""

    id: int
    value: Any


class Result(msgspec.Struct, tag="result", array_like=True, frozen=True):
    """The finished answer to one item."""

    id: int
    value: Any


class Failure(msgspec.Struct, tag="failure", array_like=True, frozen=True):
    """One item failed; `code` names the class in `errors`."""

    id: int
    code: str
    reason: str
    field: str | None = None
    retry_after: int | None = None


ModelStatus = Literal["loading", "ready", "failed", "unloading", "unloaded"]


class ModelState(msgspec.Struct, tag="state", array_like=True, frozen=True):
    """How the model of the runner is; sent on connecting and on every change.

    It is unloading and unloaded because somebody asked for that.

    Attributes:
        reason: why it failed.
        signature: what it takes and gives, once it is ready.
        stopped: it failed once it had been loaded.
        retried: it failed for a reason that may pass, and is loaded again by itself.
        task: what it does, once it is ready; None for code of its own.
    """

    status: ModelStatus
    reason: str | None = None
    signature: Signature | None = None
    stopped: bool = False
    retried: bool = False
    task: Task | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has failed, and stays so unless somebody asks for it to be loaded."""
        return self.status == "failed" and not self.retried

    def refusal(self, name: str) -> ModelNotReady:
        """What a request to the model of that name is refused with, unless it is ready."""
        message = f"Model with name {name} is not ready."
        match self.status:
            case "unloading" | "unloaded":
                # Waiting does not bring it back.
                return ModelNotReady(f"{message} It was unloaded.")
            case "failed":
                message += f" It {'stopped' if self.stopped else 'could not be loaded'}: {self.reason}"
        return ModelNotReady(message, retry_after=5)


ToRunner = Submit | Cancel | Load | Unload
FromRunner = Accepted | Delta | Result | Failure | ModelState


class _Beginning(msgspec.Struct, array_like=True, frozen=True):
    """What all messages about items have in common."""

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
        # Of these, subclasses come here, such as numpy's float64.
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
#: Gives the messages of a frame, to be decoded one by one: one that cannot be is no other's error.
decode_frame = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
decode_to_runner = msgspec.msgpack.Decoder(ToRunner, ext_hook=_decode_extra).decode
decode_from_runner = msgspec.msgpack.Decoder(FromRunner, ext_hook=_decode_extra).decode


def item_of(message: msgspec.Raw) -> int:
    """The item that a message is about.

    Raises:
        msgspec.DecodeError: it is about none.
    """
    return msgspec.msgpack.decode(message, type=_Beginning).id
