"""What the tasks that need one forward pass a row have in common: loading, padding, the pass itself."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.contract.parameters import Parameters
from hf_runtime.settings import ModelSettings
from runners.engines.batch.batch_invariance import BatchSharing, find_batch_sharing
from runners.engines.calibration.encoders import CPU_ROWS, GPU_ROWS, BatchPlan, calibrate, lanes_of
from runners.engines.calibration.plan_cache import PlanCache, model_key
from runners.engines.rows import BatchLimits, Parallelism, Row
from runners.engines.runner import Job, Runner
from runners.kernels.batch_graphs import BatchGraphs, Shape, batch_graphs
from runners.kernels.cores import available_cores, use_threads
from runners.kernels.fallbacks import Optimization
from runners.models.pretrained import Pretrained, load_pretrained
from runners.storage.checkpoint import Checkpoint
from runners.storage.fetch import fetch
from runners.tasks.padding import Padding
from runners.tasks.tokens import refuse_missing

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

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
    supports_cuda_graphs: ClassVar[bool] = True

    checkpoint: Checkpoint
    pretrained: Pretrained
    _sharing = BatchSharing.ANY
    _graphs: BatchGraphs | None = None
    _plan: BatchPlan | None = None

    def __init__(self, settings: ModelSettings, compiler: Compiler | None = None) -> None:
        super().__init__(settings, compiler)
        self._model_lock = Lock()

    def load(self) -> None:
        self.checkpoint = fetch(self.settings)
        self.pretrained = load_pretrained(
            self.auto_class, self.checkpoint, self.settings, self.compiler,
            new_head=self.new_head, reads_batches=True, fallbacks=self.fallbacks,
        )  # fmt: skip

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the loaded checkpoint."""
        return self.pretrained.tokenizer

    def warm_up(self) -> None:
        self._sharing = self._find_batch_sharing()
        if self._sharing is not BatchSharing.ANY:
            logger.warning(
                "%s gives other answers for rows that are padded: a row shares a batch with %s",
                self.settings.shown_uri, self._sharing.value,
            )  # fmt: skip
        elif self.settings.acceleration and self.supports_cuda_graphs:
            with self.fallbacks.guard(Optimization.GRAPHS):
                example = self.prepare_item(Item(self.example_instance())).rows[0].inputs
                self._graphs = batch_graphs(self.pretrained.model, example, self.pretrained.max_length)
        with self.fallbacks.guard(Optimization.CALIBRATION):
            self._plan = self._calibrated()
        super().warm_up()

    def _find_batch_sharing(self) -> BatchSharing:
        model = self.pretrained.model
        company = find_batch_sharing(
            self.outputs,
            self.prepare_item(Item(self.example_instance())).rows[0],
            special=frozenset(self.pretrained.tokenizer.all_special_ids),
            longest=self.pretrained.max_length,
            # Without padding, rows were compared in float32 when the model was loaded.
            exact=model.dtype == torch.float32 and not self.pretrained.unpadded and self.settings.quantization is None,
        )
        return BatchSharing.EQUAL if company is BatchSharing.ANY and self._switching else company

    def _calibrated(self) -> BatchPlan:
        """How batches are best made here, as kept from an earlier start or measured now."""
        seconds = self.settings.calibration_seconds
        if not seconds or self._sharing is not BatchSharing.ANY:
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

        return PlanCache(self.settings.storage_cache).find_or_measure(BatchPlan, key, measure) or self._usual

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
        if not self.settings.acceleration or self.pretrained.model.device.type != "cpu" or self._switching:
            return [(1, None)]
        return lanes_of(self.settings.torch_threads or available_cores(self.settings.cpus))

    def prepare_item(self, item: Item) -> Job[Encoding, ContextT]:
        job = super().prepare_item(item)
        for row in job.rows if self.pretrained.missing else ():
            refuse_missing(row.inputs["input_ids"], self.pretrained.missing)
        return replace(job, rows=[replace(row, group=self._group_of(row)) for row in job.rows])

    def _group_of(self, row: Row[Encoding]) -> Hashable:
        """Return what rows must have in common to share a batch, apart from their key."""
        if self._sharing is BatchSharing.NONE:
            return object()  # equal to no other
        length = row.length if self._sharing is BatchSharing.EQUAL else None
        return length, self.count_marks(row.inputs["input_ids"])

    def count_marks(self, token_ids: Sequence[int]) -> int:
        """Count tokens that must be equally many in all rows of a batch; 0 for most models."""
        return 0

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
        pad = self._padding.token_for(rows)
        inputs = {name: self._padded(name, rows, shape or (len(rows), length), pad) for name in rows[0].inputs}
        if graphs is None or shape is None:
            with self._as_loaded():
                compute = self._padding.model_for(len(rows), pad)
                return compute(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
        output = graphs.compute(inputs)
        return type(output)(**{name: tensor[: len(rows)] for name, tensor in output.items()})

    def outputs(self, rows: Sequence[Row[Encoding]]) -> Iterable[Any]:
        """Return what answers are made of, to be compared: the model's outputs, the most important first."""
        return self.run_model(rows).to_tuple()  # type: ignore[no-any-return]

    @cached_property
    def _padding(self) -> Padding:
        return Padding(self.pretrained)

    @cached_property
    def _has_one_type(self) -> bool:
        """True for a model with one token type: those that BERT tokenizers give a second text are zeroed."""
        model: Any = self.pretrained.model
        embeddings = getattr(getattr(model, "base_model", model), "embeddings", None)
        table = getattr(embeddings, "token_type_embeddings", None)
        return isinstance(table, torch.nn.Embedding) and table.num_embeddings == 1

    @cached_property
    def _switching(self) -> list[Any]:
        """Modules that change for good how they attend, when a short text comes, as BigBird's do."""
        return [
            module
            for module in self.pretrained.model.modules()
            if isinstance(module, PreTrainedModel)
            and hasattr(module, "set_attention_type")
            and module.config.attention_type == "block_sparse"
        ]

    @contextmanager
    def _as_loaded(self) -> Iterator[None]:
        """Compute with a model in the state in which it was loaded, whatever earlier requests were."""
        if not self._switching:
            yield
            return
        with self._model_lock:
            for module in self._switching:
                module.set_attention_type("block_sparse")
            yield

    def _padded(self, name: str, rows: Sequence[Row[Encoding]], shape: Shape, pad: int) -> torch.Tensor:
        """A batch of a shape, filled up with the first row if need be.

        The tokenizer's own `pad` takes 17 times as long, and no other thread runs then.
        """
        if name == "token_type_ids" and self._has_one_type:
            return torch.zeros(shape, dtype=torch.long)
        fill = {"input_ids": pad, "token_type_ids": self.pretrained.tokenizer.pad_token_type_id}.get(name)
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
