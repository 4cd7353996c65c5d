"""The contract that all runners share.

A runner turns an item into rows (`prepare`), computes rows of many items in one forward pass (`forward`), and turns
the outputs of an item's rows into its answer (`finish`). It knows nothing of requests, queues or protocols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.parameters import Parameters, parse_parameters
from hf_runtime.contract.signature import TEXT_TO_JSON, Signature
from hf_runtime.settings import ModelSettings
from runners.engines.admission import Admission
from runners.engines.rows import BatchLimits, Parallelism, Row, select_batch
from runners.kernels.fallbacks import Fallbacks

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

ParametersT = TypeVar("ParametersT", bound=Parameters)
InputsT = TypeVar("InputsT")
OutputT = TypeVar("OutputT")
ContextT = TypeVar("ContextT")


@dataclass(frozen=True, slots=True)
class Job(Generic[InputsT, ContextT]):
    """An item made ready: its rows, at least one, and what `finish` needs to know about it."""

    rows: Sequence[Row[InputsT]]
    context: ContextT


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """How a model is computed.

    Attributes:
        rows, tokens: of a batch, or of a step where text is written, at most.
        lanes: batches that are computed side by side.
        threads: of each lane; None is the library's number.
    """

    rows: int
    tokens: int
    lanes: int = 1
    threads: int | None = None


class Runner(ABC, Generic[ParametersT, InputsT, ContextT, OutputT]):
    """Computes one task with one model.

    `load` and `warm_up` run once, before anything else. After that each lane's thread calls `forward`, and another one
    `prepare` and `finish`, so a fast tokenizer, which is not safe to share between threads, stays on one.

    Args:
        compiler: that of the model's kernels, if it is at work already.
    """

    parameters_type: type[ParametersT]
    #: An instance that every model of the task can answer, for the warm-up.
    example: ClassVar[Any]
    #: Shorter ones, for models that read a few tokens only.
    shorter_examples: ClassVar[Sequence[Any]] = ()
    #: What the warm-up asks for, whatever the operator's defaults.
    example_parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: ModelSettings, compiler: Compiler | None = None) -> None:
        self.settings, self.compiler = settings, compiler
        #: Optimizations that the model is served without, as they failed; complete once it is warm.
        self.fallbacks = Fallbacks(settings.name)
        #: Of the queue, once there is one.
        self.admission: Admission | None = None

    @abstractmethod
    def load(self) -> None:
        """Fetch the checkpoint and put the model on its device.

        Raises:
            LoadError: one sentence that says what is wrong and what to do.
        """

    @property
    @abstractmethod
    def limits(self) -> BatchLimits:
        """How large a batch may be on this device."""

    @property
    def parallelism(self) -> Parallelism:
        """How many threads may call `forward` at the same time, and with how many threads of their own.

        To be asked for once the model is warm.
        """
        return Parallelism()

    @property
    def execution_plan(self) -> ExecutionPlan:
        """Batch sizes and threads for this machine, measured or set; final once the model is warm."""
        limits, parallelism = self.limits, self.parallelism
        return ExecutionPlan(limits.max_rows, limits.max_tokens, parallelism.lanes, parallelism.threads)

    def use_threads(self, number: int) -> None:
        """Have what the calling thread computes from now on be computed by so many threads."""

    @property
    def signature(self) -> Signature:
        """Instances and answers as named tensors; to be asked for once the model is loaded."""
        return TEXT_TO_JSON

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters set by the operator; those of a request win over them."""
        return {}

    @abstractmethod
    def prepare(self, instance: Any, parameters: ParametersT) -> Job[InputsT, ContextT]:
        """Check and tokenize one instance.

        Raises:
            InvalidRequest: the instance cannot be served; the message names the field.
        """

    @abstractmethod
    def forward(self, rows: Sequence[Row[InputsT]]) -> Sequence[OutputT]:
        """Compute rows of equal key as one batch: one output a row, in order, none of which keeps the batch alive."""

    @abstractmethod
    def finish(self, job: Job[InputsT, ContextT], outputs: Sequence[OutputT]) -> Any:
        """Make the answer to one item from the outputs of its rows: plain Python values or numpy arrays."""

    def prepare_item(self, item: Item) -> Job[InputsT, ContextT]:
        """Parse the item's parameters over the operator's defaults, then `prepare` it.

        Raises:
            InvalidRequest: also for a text that would take seconds to tokenize and cannot fit any model.
        """
        limit = self.settings.max_text_length
        if (length := _text_length(item.instance)) > limit:
            raise InvalidRequest(f"has {length} characters, at most {limit} are read (MAX_TEXT_LENGTH)")
        return self.prepare(item.instance, parse_parameters(self.parameters_type, item.parameters, self.defaults))

    def check_rows(self, rows: int, tokens: int, place: str, said: str) -> None:
        """Refuse the rows of an instance before they are made.

        Args:
            tokens: of all of them.
            place: the field that they come from.
            said: what is too much of it, such as `5000 tokens make 4942 windows`.

        Raises:
            InvalidRequest: they are more than one instance may have.
            Overloaded: they are too many beside those that wait.
        """
        if rows > (limit := self.settings.max_rows_per_instance):
            raise InvalidRequest(f"{said}, at most {limit} are computed (MAX_ROWS_PER_INSTANCE)", field=place)
        if self.admission is not None:
            self.admission.check(rows, tokens, place)

    def check_answers(self, answers: int, place: str, said: str) -> None:
        """Refuse more answers to one instance than there may be.

        Args:
            place, said: as in `check_rows`.

        Raises:
            InvalidRequest: they are more.
        """
        if answers > (limit := self.settings.max_answers_per_instance):
            raise InvalidRequest(f"{said}, at most {limit} are given (MAX_ANSWERS_PER_INSTANCE)", field=place)

    def weight(self, job: Job[InputsT, ContextT]) -> tuple[int, int]:
        """Rows of a job, and the tokens that it keeps in memory until it is answered."""
        return len(job.rows), sum(row.length for row in job.rows)

    def warm_up(self) -> None:
        """Answer one example, so that the first client does not pay for lazy initialisation."""
        if (example := self.example_item()) is not None:
            (result,) = self.predict([example])
            if isinstance(result, ServingError):
                raise result

    def example_item(self) -> Item | None:
        """Return an item that the model must answer before it is ready; None if no such item is known."""
        return Item(self.example_instance(), self.example_parameters)

    def example_instance(self) -> Any:
        """The warm-up instance: the first that the model has room for, or the shortest there is."""
        *longer, shortest = self.examples()
        for example in longer:
            with suppress(InvalidRequest):
                self.prepare_item(Item(example, self.example_parameters))
                return example
        return shortest

    def examples(self) -> Sequence[Any]:
        """Instances for the warm-up, the best first; a task whose examples depend on the tokenizer overrides this."""
        return (self.example, *self.shorter_examples)

    def predict(self, items: Sequence[Item]) -> list[Any]:
        """Answer items in the calling thread, in as few batches as the limits allow.

        Returns:
            For each item, in order, its answer or the `ServingError` that befell it alone.
        """
        jobs: list[Job[InputsT, ContextT] | ServingError] = []
        for item in items:
            try:
                jobs.append(self.prepare_item(item))
            except ServingError as error:
                jobs.append(error)
        outputs: dict[tuple[int, int], OutputT] = {}
        waiting = [
            ((job_index, row_index), row)
            for job_index, job in enumerate(jobs)
            if isinstance(job, Job)
            for row_index, row in enumerate(job.rows)
        ]
        while waiting:
            picked = select_batch([row for _, row in waiting], self.limits)
            computed = self.forward([waiting[i][1] for i in picked])
            outputs.update(zip((waiting[i][0] for i in picked), computed, strict=True))
            chosen = set(picked)
            waiting = [entry for i, entry in enumerate(waiting) if i not in chosen]
        return [
            self.finish(job, [outputs[job_index, row_index] for row_index in range(len(job.rows))])
            if isinstance(job, Job)
            else job
            for job_index, job in enumerate(jobs)
        ]


def _text_length(instance: Any) -> int:
    """Characters in all strings of an instance."""
    match instance:
        case str():
            return len(instance)
        case dict():
            return sum(_text_length(value) for value in instance.values())
        case list():
            return sum(_text_length(value) for value in instance)
        case _:
            return 0
