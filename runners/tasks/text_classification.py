"""Text classification: labels with scores for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.tasks.text_classification import SPEC, TextClassificationParameters, TextPair
from hf_runtime.contract.validation import make_invalid_request
from runners.engines.rows import Row
from runners.engines.runner import Job
from runners.models.padded_model import Encoding
from runners.tasks.encoder import EncoderRunner
from runners.tasks.labels import get_label


@dataclass(frozen=True, slots=True)
class _Context:
    top_k: int | None
    function: Literal["sigmoid", "softmax", "none"]


class TextClassificationRunner(EncoderRunner[TextClassificationParameters, _Context, npt.NDArray[np.float32]]):
    """Runner whose answer is a list of `{"label": str, "score": float}`, best first."""

    spec = SPEC
    parameters_type = TextClassificationParameters
    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    # KServe's quick start serves bert-base-uncased, which has no classification head.
    new_head = True
    example = "A first text."
    shorter_examples = ("A text", "A")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {"truncation": self.settings.truncates_inputs}
        if self.settings.return_probabilities or self.settings.return_raw_logits:
            defaults["top_k"] = None
        if self.settings.return_raw_logits:
            defaults["function_to_apply"] = "none"
        return defaults

    def prepare(self, instance: Any, parameters: TextClassificationParameters) -> Job[Encoding, _Context]:
        pair = _parse(instance)
        encoding: Encoding = dict(
            self.pretrained.tokenizer(
                pair.text, pair.text_pair, truncation=parameters.truncation, max_length=self.pretrained.max_length
            )
        )
        self.check_length(encoding)
        function = parameters.function_to_apply or self._default_function()
        row = Row(encoding, len(encoding["input_ids"]))
        return Job([row], _Context(parameters.top_k, function))

    def count_marks(self, token_ids: Sequence[int]) -> int:
        """Count end-of-sequence tokens.

        BART and related models classify at the last one, and require the same number in all rows.
        """
        config = self.pretrained.model.config
        return list(token_ids).count(config.eos_token_id) if config.is_encoder_decoder else 0

    def forward(self, rows: Sequence[Row[Encoding]]) -> Sequence[npt.NDArray[np.float32]]:
        return list(self.run_model(rows).logits.float().cpu().numpy())

    def finish(self, job: Job[Encoding, _Context], outputs: Sequence[npt.NDArray[np.float32]]) -> Any:
        scores = _apply(job.context.function, outputs[0])
        order = np.argsort(-scores, kind="stable")[: job.context.top_k]
        config = self.pretrained.model.config
        return [{"label": get_label(config, int(i)), "score": float(scores[i])} for i in order]

    def _default_function(self) -> Literal["sigmoid", "softmax", "none"]:
        """Return the function that the transformers pipeline chooses for the model's head."""
        config = self.pretrained.model.config
        if config.problem_type == "regression":
            return "none"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"


def _parse(instance: Any) -> TextPair:
    if isinstance(instance, str):
        return TextPair(text=instance)
    try:
        return TextPair.model_validate(instance)
    except ValidationError as error:
        if isinstance(instance, dict):
            raise make_invalid_request(error) from None
        raise InvalidRequest("must be a string or an object with text and, optionally, text_pair") from None


def _apply(function: str, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values = torch.from_numpy(logits)
    if function == "sigmoid":
        values = values.sigmoid()
    elif function == "softmax":
        values = values.softmax(-1)
    return values.numpy()


#: Runner of this task.
RUNNER = TextClassificationRunner
