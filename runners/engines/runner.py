"""Base class of all runners.

A runner turns an item into rows (`prepare`), computes rows of many items in one forward pass (`forward`), and turns
the outputs of an item's rows into its answer (`finish`). It does not depend on requests, queues or protocols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.parameters import Parameters, parse_parameters
from hf_runtime.contract.signature import TEXT_TO_JSON, Signature
from hf_runtime.contract.task_spec import TaskSpec
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest, TokenizeText
from hf_runtime.settings import ModelSettings
from runners.engines.admission import Admission
from runners.engines.rows import BatchLimits, Parallelism, Row, select_batch
from runners.kernels.cores import set_thread_count
from runners.kernels.fallbacks import Fallbacks

if TYPE_CHECKING:
    from runners.kernels.compiler import Compiler

ParametersT = TypeVar("ParametersT", bound=Parameters)
InputsT = TypeVar("InputsT")
OutputT = TypeVar("OutputT")
ContextT = TypeVar("ContextT")


@dataclass(frozen=True, slots=True)
class Job(Generic[InputsT, ContextT]):
    """Prepared item: its rows, at least one, and the context that `finish` needs."""

    rows: Sequence[Row[InputsT]]
    context: ContextT


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """Batch size and parallelism that a model is computed with.

    Attributes:
        rows, tokens: maximum per batch, or per decoding step of a generative model.
        workers: batches computed in parallel.
        threads: threads per worker; None is the library's default.
    """

    rows: int
    tokens: int
    workers: int = 1
    threads: int | None = None


class Runner(ABC, Generic[ParametersT, InputsT, ContextT, OutputT]):
    """Implementation of one task with one model.

    `load` and `warm_up` run once, before any other method. After that each worker thread calls `forward`. Calls of
    `prepare` never overlap, because a fast tokenizer must not be used by two threads at the same time. `BatchEngine`
    does not overlap them with `finish` either.

    Args:
        compiler: compiler of the model's kernels, if it has been started already.
    """

    #: Specification of the task; None for a pipeline of the model's own.
    spec: ClassVar[TaskSpec | None] = None
    parameters_type: type[ParametersT]
    #: Instance for the warm-up that every model of the task can answer.
    example: ClassVar[Any]
    #: Shorter instances for models with a very small maximum length, longest first.
    shorter_examples: ClassVar[Sequence[Any]] = ()
    #: Parameters of the warm-up; they override the operator's defaults.
    example_parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: ModelSettings, compiler: Compiler | None = None) -> None:
        self.settings, self.compiler = settings, compiler
        #: Optimizations that failed and are switched off for this model; final once the model is warm.
        self.fallbacks = Fallbacks(settings.name)
        #: Admission control of the queue; None until an engine is created.
        self.admission: Admission | None = None

    @abstractmethod
    def load(self) -> None:
        """Fetch the checkpoint and put the model on its device.

        Raises:
            LoadError: loading failed; the message says in one sentence what is wrong and what to do.
        """

    @property
    @abstractmethod
    def limits(self) -> BatchLimits:
        """Limits of one batch on this device."""

    @property
    def parallelism(self) -> Parallelism:
        """Number of threads that may call `forward` in parallel, and compute threads of each.

        Final once the model is warm.
        """
        return Parallelism()

    @property
    def execution_plan(self) -> ExecutionPlan:
        """Batch size and parallelism in use, measured or configured; final once the model is warm."""
        limits, parallelism = self.limits, self.parallelism
        return ExecutionPlan(limits.max_rows, limits.max_tokens, parallelism.workers, parallelism.threads)

    def set_thread_count(self, number: int) -> None:
        """Set the number of threads for later computations of the calling thread."""
        set_thread_count(number)

    @property
    def signature(self) -> Signature:
        """Instances and answers as named tensors; final once the model is loaded."""
        return TEXT_TO_JSON if self.spec is None else self.spec.signature

    @property
    def context_length(self) -> int | None:
        """Most tokens of an input and its generated answer; None without a known limit.

        Final once the model is warm.
        """
        return None

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Parameters set by the operator; parameters of a request override them."""
        return {}

    @abstractmethod
    def prepare(self, instance: Any, parameters: ParametersT) -> Job[InputsT, ContextT]:
        """Check and tokenize one instance.

        Raises:
            InvalidRequest: the instance cannot be served; the message names the field.
        """

    @abstractmethod
    def forward(self, rows: Sequence[Row[InputsT]]) -> Sequence[OutputT]:
        """Compute rows of equal key as one batch.

        Returns:
            One output per row, in order. No output may hold a reference to memory of the whole batch.
        """

    @abstractmethod
    def finish(self, job: Job[InputsT, ContextT], outputs: Sequence[OutputT]) -> Any:
        """Build the answer to one item from the outputs of its rows.

        Returns:
            Plain Python values or numpy arrays.
        """

    def prepare_item(self, item: Item) -> Job[InputsT, ContextT]:
        """Merge the item's parameters with the operator's defaults, then `prepare` it.

        Raises:
            InvalidRequest: as `prepare`, or the text is longer than MAX_TEXT_LENGTH. Such a text would take seconds to
                tokenize and fits no model.
        """
        self._check_text_length(item.instance)
        return self.prepare(item.instance, parse_parameters(self.parameters_type, item.parameters, self.defaults))

    def use_tokenizer(self, request: TokenizerRequest) -> TokenizerAnswer:
        """Tokenize or detokenize; calls never overlap with those of `prepare`.

        Raises:
            InvalidRequest: the request is wrong, or longer than MAX_TEXT_LENGTH.
        """
        self._check_text_length(request.text if isinstance(request, TokenizeText) else getattr(request, "chat", None))
        return self.tokenize(request)

    def _check_text_length(self, instance: Any) -> None:
        limit = self.settings.max_text_length
        if (length := _count_characters(instance)) > limit:
            raise InvalidRequest(f"has {length} characters, at most {limit} are read (MAX_TEXT_LENGTH)")

    def tokenize(self, request: TokenizerRequest) -> TokenizerAnswer:
        """Compute the answer of `use_tokenizer`; a task with a tokenizer overrides this.

        Raises:
            InvalidRequest: the request is wrong.
        """
        raise InvalidRequest("the model's own code reads its inputs, and has no tokenizer to use", field="model")

    def check_rows(self, rows: int, tokens: int, field: str, description: str) -> None:
        """Check the number of rows of an instance before they are created.

        Args:
            rows, tokens: number of rows, and tokens of all of them.
            field: field of the request that the rows come from.
            description: what exceeds the limit, for the message, such as `5000 tokens make 4942 windows`.

        Raises:
            InvalidRequest: the instance has more rows than one instance may have.
            Overloaded: the rows exceed the limits of the queue together with the items already queued.
        """
        if rows > (limit := self.settings.max_rows_per_instance):
            raise InvalidRequest(f"{description}, at most {limit} are computed (MAX_ROWS_PER_INSTANCE)", field=field)
        if self.admission is not None:
            self.admission.check(rows, tokens, field)

    def check_answers(self, answers: int, field: str, description: str) -> None:
        """Check the number of answers to one instance.

        Args:
            field, description: as in `check_rows`.

        Raises:
            InvalidRequest: there are more than one instance may get.
        """
        if answers > (limit := self.settings.max_answers_per_instance):
            raise InvalidRequest(f"{description}, at most {limit} are given (MAX_ANSWERS_PER_INSTANCE)", field=field)

    def weight(self, job: Job[InputsT, ContextT]) -> tuple[int, int]:
        """Return the rows of a job, and the tokens that it keeps in memory until it is answered."""
        return len(job.rows), sum(row.length for row in job.rows)

    def warm_up(self) -> None:
        """Answer one example, so that lazy initialisation does not delay the first request."""
        if (example := self.create_example_item()) is not None:
            (result,) = self.predict([example])
            if isinstance(result, ServingError):
                raise result

    def create_example_item(self) -> Item | None:
        """Return an item that the model must answer before it is ready, or None if there is none."""
        return Item(self.choose_example(), self.example_parameters)

    def choose_example(self) -> Any:
        """Return the first example that fits the model, or else the last and shortest one."""
        *longer, shortest = self.examples()
        for example in longer:
            with suppress(InvalidRequest):
                self.prepare_item(Item(example, self.example_parameters))
                return example
        return shortest

    def examples(self) -> Sequence[Any]:
        """Return instances for the warm-up, the preferred one first.

        A task whose examples depend on the tokenizer overrides this.
        """
        return (self.example, *self.shorter_examples)

    def predict(self, items: Sequence[Item]) -> list[Any]:
        """Answer items in the calling thread, in as few batches as the limits allow.

        Returns:
            For each item, in order, its answer or the `ServingError` of this item.
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


def _count_characters(instance: Any) -> int:
    """Count the characters of all strings of an instance."""
    match instance:
        case str():
            return len(instance)
        case dict():
            return sum(_count_characters(value) for value in instance.values())
        case list():
            return sum(_count_characters(value) for value in instance)
        case _:
            return 0
