"""Promise: a runner's own route returns each item's answer or error, as plain values."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from hf_runtime.contract.errors import InvalidRequest
from runners.process import RunnerProcess

ANSWERS: dict[str, Any] = {
    "array": np.ones((1, 2), np.float32),
    "within": {"embedding": np.ones(2, np.float32), "score": np.float64(0.5)},
    "NaN": {"embedding": np.array([np.nan])},
    "integer": [2**64],
    "wrong": InvalidRequest("must be right"),
    "bug": RuntimeError("internal detail"),
}


class _Host:
    """Host that answers as the instance says, or fails on submission."""

    def submit(self, instance: Any, parameters: dict[str, Any]) -> asyncio.Future[Any]:
        if instance == "broken":
            raise RuntimeError("internal detail")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer = ANSWERS[instance]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


def test_each_item_has_its_answer_or_its_error() -> None:
    process = RunnerProcess.__new__(RunnerProcess)
    process._host = _Host()  # type: ignore[assignment]
    instances = ("array", "NaN", "broken", "within", "bug", "integer", "wrong")
    array, nan, broken, within, bug, integer, wrong = asyncio.run(process.predict([{"instance": i} for i in instances]))
    assert array == {"result": [[1.0, 1.0]]}
    assert within == {"result": {"embedding": [1.0, 1.0], "score": 0.5}}
    assert nan["error"]["code"] == integer["error"]["code"] == "inference_failed"
    assert "holds NaN or infinity" in nan["error"]["message"]
    assert broken == bug
    assert "log has the details" in bug["error"]["message"]
    assert wrong == {"error": {"code": "invalid_request", "message": "must be right"}}
