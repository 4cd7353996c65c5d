"""What the tasks that need one forward pass a row have in common: loading, padding, the pass itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from acceleration.batch_graphs import BatchGraphs, Shape, batch_graphs
from acceleration.cores import available_cores, use_threads
from acceleration.fallbacks import Optimization
from batching.lanes import Parallelism
from batching.rows import BatchLimits, Row
from calibration.encoders import CPU_ROWS, GPU_ROWS, BatchPlan, calibrate, lanes_of
from calibration.kept import KeptPlans, model_key
from errors import InvalidRequest
from loading.checkpoint import Checkpoint
from loading.pretrained import Pretrained, load_pretrained
from loading.storage import fetch
from runners.base import Item, Job, Runner
from runners.parameters import Parameters

logger = logging.getLogger(__name__)

ParametersT = TypeVar("ParametersT", bound=Parameters)
ContextT = TypeVar("ContextT")
OutputT = TypeVar("OutputT")

#: Tokenizer output of one row: input_ids, attention_mask and, where the model has them, token_type_ids.
Encoding = Mapping[str, list[int]]


class EncoderRunner(Runner[ParametersT, Encoding, ContextT, OutputT]):
    """A runner whose model reads a padded batch once and gives a tensor for each row."""

    #: The AutoModel class of the task.
    auto_class: ClassVar[Any]
    #: Whether a checkpoint without the task's head is served, with a warning, or refused.
    new_head: ClassVar[bool] = False
    #: Whether the forward pass is the model's own, so that a GPU may be told of it once and for all.
    as_it_is: ClassVar[bool] = True

    checkpoint: Checkpoint
    pretrained: Pretrained
    _padding_changes_answers = False
    _graphs: BatchGraphs | None = None
    _plan: BatchPlan | None = None

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.pretrained = load_pretrained(
            self.auto_class, self.checkpoint, self.settings, self.compiler,
            new_head=self.new_head, reads_batches=True, fallbacks=self.fallbacks,
        )  # fmt: skip

    def warm_up(self) -> None:
        super().warm_up()
        self._padding_changes_answers = not self._ignores_padding()
        if self._padding_changes_answers:
            logger.warning(
                "%s reads padding as text: only texts of equal length share a batch",
                self.settings.shown_uri,
            )
        elif self.settings.acceleration and self.as_it_is:
            example = self.prepare_item(Item(self.example_instance())).rows[0].inputs
            with self.fallbacks.guard(Optimization.GRAPHS):
                self._graphs = batch_graphs(self.pretrained.model, example, self.pretrained.max_length)
        with self.fallbacks.guard(Optimization.CALIBRATION):
            self._plan = self._calibrated()

    def _calibrated(self) -> BatchPlan:
        """How batches are best made here, as kept from an earlier start or measured now."""
        seconds = self.settings.calibration_seconds
        if not seconds or self._padding_changes_answers:
            return self._usual
        lanes = self._lanes
        model = self.pretrained.model
        key = {
            **model_key(model, self.settings),
            "task": self.settings.task,
            "unpadded": self.pretrained.unpadded,
            "graphs": self._graphs is not None,
            "lanes": lanes,
        }

        def measure() -> BatchPlan | None:
            try:
                return calibrate(
                    self.forward,
                    self.prepare_item(Item(self.example_instance())).rows[0],
                    self._usual,
                    rows=CPU_ROWS if model.device.type == "cpu" else GPU_ROWS,
                    lanes=lanes,
                    seconds=seconds,
                    longest=self.pretrained.max_length,
                )
            finally:
                if self.pretrained.program is not None:
                    # Larger batches were tried than will ever come.
                    self.pretrained.program.forget()

        return KeptPlans(self.settings.storage_cache).find_or_measure(BatchPlan, key, measure) or self._usual

    @property
    def _usual(self) -> BatchPlan:
        """How batches are made where nothing has been measured."""
        lanes, threads = self._lanes[0]
        parallelism = Parallelism(lanes, threads, lanes if threads is not None else None)
        unpadded = self.pretrained.unpadded
        # Padding costs a CPU more than company gains it; a GPU wants large batches.
        rows, tokens = (64, 16384) if self.pretrained.model.device.type == "cuda" else (16 if unpadded else 8, 2048)
        return BatchPlan(BatchLimits(rows, tokens, padded=not unpadded), parallelism)

    @property
    def _lanes(self) -> Sequence[tuple[int, int | None]]:
        """Numbers of lanes among which is chosen, with the threads of each; the usual one first."""
        if not self.settings.acceleration or self.pretrained.model.device.type != "cpu":
            return [(1, None)]
        return lanes_of(self.settings.torch_threads or available_cores(self.settings.cpus))

    def prepare_item(self, item: Item) -> Job[Encoding, ContextT]:
        job = super().prepare_item(item)
        if not self._padding_changes_answers:
            return job
        return replace(job, rows=[replace(row, key=(row.key, row.length)) for row in job.rows])

    def _ignores_padding(self) -> bool:
        """Whether a row's output is the same beside a longer one; FNet, ConvBERT and Funnel mix padding in."""
        row = self.prepare_item(Item(self.example_instance())).rows[0]
        longer = replace(row, inputs={name: values * 2 for name, values in row.inputs.items()})
        alone = self.run_model([row])[0][0].float()
        beside = self.run_model([row, longer])[0][0].float()
        # Rounding of the smallest precisions stays under this; a model that reads padding is far above it.
        same = beside.shape[0] >= alone.shape[0] and torch.dist(alone, beside[: len(alone)]) <= 0.1 * alone.norm()
        return bool(same)

    @property
    def limits(self) -> BatchLimits:
        limits = (self._plan or self._usual).limits
        return replace(
            limits,
            max_rows=self.settings.max_batch_size or limits.max_rows,
            max_tokens=self.settings.max_batch_tokens or limits.max_tokens,
        )

    @property
    def parallelism(self) -> Parallelism:
        return (self._plan or self._usual).parallelism

    def use_threads(self, number: int) -> None:
        use_threads(number)

    @torch.inference_mode()
    def run_model(self, rows: Sequence[Row[Encoding]]) -> Any:
        """The model's output for rows padded on the right to the longest of them, or some more.

        It may be valid only until the next call.
        """
        model: Any = self.pretrained.model
        length = max(len(row.inputs["input_ids"]) for row in rows)
        graphs = self._graphs if self._graphs is not None and rows[0].inputs.keys() == self._graphs.names else None
        shape = graphs.shape(len(rows), length) if graphs is not None else None
        inputs = {name: self._padded(name, rows, shape or (len(rows), length)) for name in rows[0].inputs}
        if graphs is None or shape is None:
            return model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
        output = graphs.compute(inputs)
        return type(output)(**{name: tensor[: len(rows)] for name, tensor in output.items()})

    def _padded(self, name: str, rows: Sequence[Row[Encoding]], shape: Shape) -> torch.Tensor:
        """A batch of a shape, filled up with the first row if need be.

        The tokenizer's own `pad` takes 17 times as long, and no other thread runs then.
        """
        tokenizer = self.pretrained.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}.get(name)
        batch = np.full(shape, fill or 0)
        for padded, row in zip(batch, rows, strict=False):
            values = row.inputs[name]
            padded[: len(values)] = values
        batch[len(rows) :] = batch[0]
        return torch.from_numpy(batch)

    def check_length(self, encoding: Encoding, what: str = "the text") -> None:
        """Refuse what the model cannot read.

        Raises:
            InvalidRequest: with both lengths.
        """
        length, limit = len(encoding["input_ids"]), self.pretrained.max_length
        if length == 0:
            raise InvalidRequest(f"{what} is empty: it has no token for the model to read")
        if limit is not None and length > limit:
            raise InvalidRequest(
                f"{what} has {length} tokens and the model reads {limit}: "
                "shorten it, or set parameters.truncation to true"
            )
