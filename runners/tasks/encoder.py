"""Base class of the tasks that need one forward pass per row."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import ContextLengthExceeded, InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.contract.parameters import Parameters
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from runners.engines.batch.batch_invariance import BatchSharing, find_batch_sharing
from runners.engines.calibration.encoders import (
    CPU_ROWS,
    GPU_ROWS,
    BatchPlan,
    calibrate,
    guard_calibration,
    worker_options,
)
from runners.engines.calibration.plan_cache import PlanCache, model_key
from runners.engines.rows import BatchLimits, Parallelism, Row
from runners.engines.runner import Job, Runner
from runners.models.padded_model import Encoding, PaddedModel
from runners.models.pretrained import Pretrained, load_pretrained
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import fetch
from runners.tasks.tokenizing import use_tokenizer
from runners.tasks.tokens import reject_missing_tokens

logger = logging.getLogger(__name__)

ParametersT = TypeVar("ParametersT", bound=Parameters)
ContextT = TypeVar("ContextT")
OutputT = TypeVar("OutputT")


class EncoderRunner(Runner[ParametersT, Encoding, ContextT, OutputT]):
    """Runner of a model that computes a batch in one forward pass, with one output per row."""

    #: AutoModel class of the task.
    auto_class: ClassVar[Any]
    #: Whether a checkpoint without the task's head is served with a warning; otherwise it is refused.
    new_head: ClassVar[bool] = False
    #: Whether CUDA graphs may replay the forward pass, because the task adds nothing to it.
    supports_cuda_graphs: ClassVar[bool] = True

    checkpoint: Checkpoint
    pretrained: Pretrained
    _sharing = BatchSharing.ANY_LENGTH
    _plan: BatchPlan | None = None

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.pretrained = load_pretrained(
            self.auto_class, self.checkpoint, self.settings, self.compiler,
            new_head=self.new_head, reads_batches=True, fallbacks=self.fallbacks,
        )  # fmt: skip

    @property
    def context_length(self) -> int | None:
        return self.pretrained.max_length

    @cached_property
    def padded(self) -> PaddedModel:
        """The forward pass of the loaded model."""
        return PaddedModel(self.pretrained)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the loaded checkpoint."""
        return self.pretrained.tokenizer

    def tokenize(self, request: TokenizerRequest) -> TokenizerAnswer:
        return use_tokenizer(self.tokenizer, request, max_length=self.pretrained.max_length)

    def warm_up(self) -> None:
        self._sharing = self._find_batch_sharing()
        if self._sharing is not BatchSharing.ANY_LENGTH:
            logger.warning(
                "Padding changes the outputs of %s: a row shares a batch with %s",
                self.settings.shown_uri, self._sharing.value,
            )  # fmt: skip
        elif self.settings.acceleration and self.supports_cuda_graphs:
            self.padded.use_graphs(self.prepare_item(Item(self.choose_example())).rows[0].inputs, self.fallbacks)
        if self.settings.calibration_seconds and self._sharing is BatchSharing.ANY_LENGTH:
            with guard_calibration(self.fallbacks):
                self._plan = self._calibrate()
        super().warm_up()

    def _find_batch_sharing(self) -> BatchSharing:
        model = self.pretrained.model
        sharing = find_batch_sharing(
            self.outputs,
            self.prepare_item(Item(self.choose_example())).rows[0],
            special=frozenset(self.pretrained.tokenizer.all_special_ids),
            longest=self.pretrained.max_length,
            # Without padding, rows were compared in float32 while the model was loaded.
            exact=model.dtype == torch.float32 and not self.pretrained.unpadded and self.settings.quantization is None,
        )
        if sharing is BatchSharing.ANY_LENGTH and self.padded.switches_attention:
            return BatchSharing.EQUAL_LENGTH
        return sharing

    def _calibrate(self) -> BatchPlan | None:
        """Return the plan for batches on this machine, stored at an earlier start or measured now."""
        model = self.pretrained.model
        key = {
            **model_key(model, self.settings),
            "task": self.settings.task,
            "unpadded": self.pretrained.unpadded,
            "graphs": self.padded.graphs is not None,
            "workers": self._worker_options,
        }

        def measure() -> BatchPlan | None:
            try:
                return calibrate(
                    self.forward,
                    self.prepare_item(Item(self.choose_example())).rows[0],
                    self._default_plan,
                    rows=CPU_ROWS if model.device.type == "cpu" else GPU_ROWS,
                    workers=self._worker_options,
                    seconds=self.settings.calibration_seconds,
                    longest=self.pretrained.max_length,
                )
            finally:
                if self.pretrained.program is not None:
                    # The measured batches are larger than those of requests.
                    self.pretrained.program.free_memory()

        return PlanCache(self.settings.storage_cache).find_or_measure(BatchPlan, key, measure)

    @cached_property
    def _default_plan(self) -> BatchPlan:
        """Plan for batches if none has been measured."""
        workers, threads = self._worker_options[0]
        parallelism = Parallelism(workers, threads, workers if threads is not None else None)
        unpadded = self.pretrained.unpadded
        # On a CPU, padding costs more than a larger batch gains; a GPU needs large batches.
        rows, tokens = (64, 16384) if self.pretrained.model.device.type == "cuda" else (16 if unpadded else 8, 2048)
        return BatchPlan(BatchLimits(rows, tokens, padded=not unpadded), parallelism)

    @cached_property
    def _worker_options(self) -> Sequence[tuple[int, int | None]]:
        """Pairs of workers and threads to measure, the default first."""
        if (
            not self.settings.acceleration
            or self.pretrained.model.device.type != "cpu"
            or self.padded.switches_attention
        ):
            return [(1, None)]
        return worker_options(self.settings.torch_threads, self.settings.cpus)

    def prepare_item(self, item: Item) -> Job[Encoding, ContextT]:
        job = super().prepare_item(item)
        for row in job.rows if self.pretrained.missing else ():
            reject_missing_tokens(row.inputs["input_ids"], self.pretrained.missing)
        return replace(job, rows=[replace(row, group=self._group_of(row)) for row in job.rows])

    def _group_of(self, row: Row[Encoding]) -> Hashable:
        """Return what rows must have in common to share a batch, apart from their key."""
        if self._sharing is BatchSharing.NO_OTHER_ROW:
            return object()  # equal to no other
        length = row.length if self._sharing is BatchSharing.EQUAL_LENGTH else None
        return length, self.count_marks(row.inputs["input_ids"])

    def count_marks(self, token_ids: Sequence[int]) -> int:
        """Count the tokens whose number must be equal in all rows of a batch; 0 for most models."""
        return 0

    @property
    def limits(self) -> BatchLimits:
        limits = (self._plan or self._default_plan).limits
        return replace(
            limits,
            max_rows=self.settings.max_batch_size or limits.max_rows,
            max_tokens=self.settings.max_batch_tokens or limits.max_tokens,
        )

    @property
    def parallelism(self) -> Parallelism:
        return (self._plan or self._default_plan).parallelism

    def run_model(self, rows: Sequence[Row[Encoding]]) -> Any:
        """Return the model's output for rows; it is valid only until the next call."""
        return self.padded.compute([row.inputs for row in rows])

    def outputs(self, rows: Sequence[Row[Encoding]]) -> Iterable[Any]:
        """Return the model's outputs for a comparison of batches, the most important first."""
        return self.run_model(rows).to_tuple()  # type: ignore[no-any-return]

    def check_length(self, encoding: Encoding, what: str = "the text") -> None:
        """Reject an empty input, or one that is longer than the model's maximum length.

        Args:
            what: name of the input, for the message.

        Raises:
            InvalidRequest: it is empty.
            ContextLengthExceeded: it is too long; the message contains both lengths.
        """
        length, limit = len(encoding["input_ids"]), self.pretrained.max_length
        if length == 0:
            raise InvalidRequest(f"{what} is empty: it has no token for the model to read")
        if limit is not None and length > limit:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {limit} tokens, and {what} has {length} tokens: "
                "shorten it, or set parameters.truncation to true"
            )
