"""Lifecycle of one model in its process: load, serve, unload and reload."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple

from hf_runtime.contract.errors import InferenceFailed, LoadError, ModelNotReady, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.contract.signature import TEXT_TO_JSON, Signature
from hf_runtime.contract.tokenization import TokenizerRequest
from hf_runtime.observability.engine_observer import DeferredObserver
from hf_runtime.observability.item_spans import ItemTracing
from hf_runtime.observability.model_metrics import ModelMetrics
from hf_runtime.observability.setup import redirect_library_logs
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ModelSettings, Task
from runners.engines.device_errors import BrokenDevice, find_broken_device, raise_if_broken
from runners.engines.engine import Engine, get_engine_factory
from runners.engines.runner import ExecutionPlan
from runners.failure_reason import describe_expected, describe_unexpected
from runners.kernels.fallbacks import Optimization
from runners.models.garbage import freeze_gc, gc_paused
from runners.preload import preload_model
from runners.retry_schedule import retry_delays
from runners.start import start_runner
from runners.storage.source import UnreachableError

logger = logging.getLogger(__name__)

_Step = Callable[[], Awaitable[None]]


class _LoadFailure(NamedTuple):
    """Failed attempt to load a model.

    Attributes:
        is_temporary: the source could not be reached, so another attempt may succeed.
    """

    reason: str
    is_temporary: bool = False


class ModelHost:
    """Host that loads one model in a worker thread, then answers its items.

    Args:
        on_broken: called once the device or the engine has failed, so that this process must end.
        retry_delays: creates the delays, in seconds, before further attempts to load a model whose source could not be
            reached.
        sleep: waits for a delay.

    Attributes:
        state: current state of the model.
    """

    def __init__(
        self,
        settings: ModelSettings,
        tracing: ItemTracing | None = None,
        metrics: ModelMetrics | None = None,
        on_broken: Callable[[], None] = lambda: None,
        *,
        retry_delays: Callable[[], Iterator[float]] = retry_delays,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._on_broken = on_broken
        self._broken = False
        self._metrics = metrics
        self._observer: DeferredObserver | None = None
        self._settings = settings
        self._tracing = tracing
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._engine: Engine | None = None
        self._engine_task: asyncio.Task[None] | None = None
        self._signature = TEXT_TO_JSON
        #: Answers of all queued items that are not done.
        self._pending: set[asyncio.Future[Any]] = set()
        self._task = settings.task
        self._context_length: int | None = None
        #: Requested steps. They run one at a time and in order, so that none finds the model half loaded.
        self._steps: asyncio.Queue[tuple[_Step, asyncio.Future[None]]] = asyncio.Queue()
        self._state_changed = asyncio.Event()
        self._create_delays, self._sleep = retry_delays, sleep
        self._delays = retry_delays()
        #: Seconds until the next automatic attempt to load the model; None without one.
        self._retry_in: float | None = None
        self.state = ModelState("loading")

    async def run(self) -> None:
        """Load the model, then run requested steps until cancelled.

        If loading fails, the state is `failed`, and `load` may be called again. If the source could not be reached,
        loading is retried automatically until the model is ready or is unloaded.
        """
        try:
            await self._run_step(self._load)
            while True:
                step, done = await self._next_step()
                error = await self._run_step(step)
                if done is None or done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        finally:
            await self._stop_engine()
            self._compute.shutdown(wait=False, cancel_futures=True)

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        request_context: RequestContext | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one item and return a future of its answer; cancelling the future cancels the item.

        Args:
            listener: receives the deltas of a streamed answer.
            request_context: identifies the HTTP request in logs and traces.

        Raises:
            InvalidRequest: there is a listener, but the task does not stream.
            ModelNotReady: the model is loading, has failed, or was unloaded.
            Overloaded: the queue is full.
        """
        engine = self._get_ready_engine()
        trace = self._tracing.start_item(request_context) if self._tracing is not None else None
        try:
            future = engine.submit(Item(instance, parameters, request_context, trace), listener)
        except ServingError as error:
            if trace is not None:
                trace.fail(error.code)
            raise
        self._track(future)
        if trace is not None:
            # After the engine's own callbacks, which may still add spans to the trace.
            future.add_done_callback(trace.end)
        return future

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Return a future of the answer to a request for the tokenizer.

        Raises:
            ModelNotReady, Overloaded: as `submit`.
        """
        return self._track(self._get_ready_engine().use_tokenizer(request))

    def _get_ready_engine(self) -> Engine:
        if self._engine is None or self.state.status != "ready":
            raise self.state.refusal(self._settings.name)
        return self._engine

    def load(self) -> asyncio.Future[None]:
        """Load the model if it is not loaded, and return a future that is done when it is ready.

        The future raises `ModelNotReady` if the model cannot be loaded. Cancelling it does not stop the load, so that
        the next step never finds the model half loaded.
        """
        return self._request_step(self._load)

    def unload(self) -> asyncio.Future[None]:
        """Refuse new items, finish the running ones and free the model.

        Returns:
            A future that is done when the model is unloaded.
        """
        return self._request_step(self._unload)

    async def states(self) -> AsyncIterator[ModelState]:
        """Yield the current state, then each new one."""
        while True:
            changed = self._state_changed
            yield self.state
            await changed.wait()

    def _request_step(self, step: _Step) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steps.put_nowait((step, done))
        return done

    async def _next_step(self) -> tuple[_Step, asyncio.Future[None] | None]:
        """Return the next requested step, or another attempt to load once its delay is over."""
        if self._retry_in is None:
            return await self._steps.get()
        requested, delay = asyncio.ensure_future(self._steps.get()), asyncio.ensure_future(self._sleep(self._retry_in))
        try:
            await asyncio.wait((requested, delay), return_when=asyncio.FIRST_COMPLETED)
            return requested.result() if requested.done() else (self._load, None)
        finally:
            requested.cancel()
            delay.cancel()

    async def _run_step(self, step: _Step) -> ServingError | None:
        try:
            await step()
        except ServingError as error:
            return error
        except Exception:
            logger.exception("Model %s: unexpected error", self._settings.name)
            return InferenceFailed("the server failed; its log has the details")
        return None

    async def _load(self) -> None:
        if self._engine is not None:
            return
        if self._broken:
            raise self.state.refusal(self._settings.name)
        if self.state.status == "failed":
            await self._release_memory()
        self._set_state(ModelState("loading"))
        started = monotonic()
        self._retry_in = None
        failure = await self._try_load()
        if failure is not None:
            # The memory is freed before the failure is reported, because the next attempt needs it.
            if not self._broken:
                await self._release_memory()
                self._set_state(self._schedule_retry(failure))
            raise self.state.refusal(self._settings.name)
        self._delays = self._create_delays()
        seconds = monotonic() - started
        logger.info("Model %s is ready after %.1f s", self._settings.name, seconds)
        if self._metrics is not None:
            self._metrics.record_load_time(seconds)
        self._set_state(
            ModelState("ready", signature=self._signature, task=self._task, context_length=self._context_length)
        )

    def _schedule_retry(self, failure: _LoadFailure) -> ModelState:
        """Schedule the next attempt if the failure is temporary, and return the new state."""
        if not failure.is_temporary:
            return ModelState("failed", failure.reason)
        self._retry_in = next(self._delays)
        logger.warning("Model %s: next attempt to load in %.0f s", self._settings.name, self._retry_in)
        reason = f"{failure.reason} It is tried again in {self._retry_in:.0f} s."
        return ModelState("failed", reason, retried=True)

    async def _try_load(self) -> _LoadFailure | None:
        """Load the model, and return the failure if it cannot be loaded.

        This is a frame of its own, because the traceback of an error keeps alive what was loaded before it.
        """
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._compute, self._start_runner)
        except (LoadError, ServingError) as error:
            # The text is logged, not the error: a kept log record would keep the model in memory.
            reason = describe_expected(error, self._settings)
            logger.error("Model %s failed to load: %s", self._settings.name, reason)
            return _LoadFailure(reason, is_temporary=isinstance(error, UnreachableError))
        except Exception as error:
            if (broken := _find_broken_device(error)) is not None:
                self._report_broken_device(broken)
                return _LoadFailure(str(self.state.reason))
            reason = describe_unexpected(error, self._settings)
            logger.error(
                "Model %s failed to load: %s (LOG_LEVEL=DEBUG shows the traceback)", self._settings.name, reason
            )
            logger.debug("Model %s: traceback of the failed load", self._settings.name, exc_info=True)
            return _LoadFailure(reason)
        create_engine, self._signature, execution_plan, example, self._task, self._context_length = loaded
        self._engine = engine = create_engine(max_queue_size=self._settings.max_queue_size, compute=self._compute)
        self._engine_task = asyncio.create_task(engine.run())
        self._engine_task.add_done_callback(self._on_engine_end)
        if example is not None and (failure := await self._try_example(engine, example)) is not None:
            return failure
        if self._observer is not None and self._metrics is not None:
            self._observer.begin()
            self._metrics.record_execution_plan(
                execution_plan.rows, execution_plan.tokens, execution_plan.workers, execution_plan.threads
            )
        return None

    async def _try_example(self, engine: Engine, example: Item) -> _LoadFailure | None:
        """Answer an example through the engine.

        If that fails, stop the engine and return the failure.
        """
        try:
            await self._track(engine.submit(example))
        except Exception as error:
            reason = describe_unexpected(error, self._settings)
            logger.error("Model %s failed to load: its example has no answer: %s", self._settings.name, reason)
            await self._stop_engine()
            return _LoadFailure(reason)
        return None

    def _track(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Store the future of an item until it is done, and return it."""
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _stop_engine(self) -> None:
        """Stop the engine, if there is one, without waiting for pending items."""
        task, self._engine, self._engine_task = self._engine_task, None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _unload(self) -> None:
        self._retry_in, self._delays = None, self._create_delays()
        if self.state.status == "unloaded":
            return
        if self._engine is not None:
            self._set_state(ModelState("unloading"))
            while self._pending:
                await asyncio.wait(set(self._pending))
            await self._stop_engine()
        await self._release_memory()
        logger.info("Model %s is unloaded", self._settings.name)
        self._set_state(ModelState("unloaded", "unloaded"))

    def _report_broken_device(self, error: BrokenDevice) -> None:
        logger.critical(
            "Model %s: the device failed, so the process ends and is restarted: %s",
            self._settings.name, error, exc_info=error.__cause__,
        )  # fmt: skip
        self._end_process("its device failed, and its runner starts again")

    def _on_engine_end(self, task: asyncio.Task[None]) -> None:
        """Fail all pending items and end the process, if the engine stopped by itself."""
        if task.cancelled():
            return
        error = task.exception()
        broken = find_broken_device(error)
        answer: ServingError = InferenceFailed("the model stopped; the server's log has the details")
        if broken is not None:
            answer = ModelNotReady("The device of the model failed while it computed.", retry_after=5)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(answer)
        self._engine = self._engine_task = None
        if broken is not None:
            self._report_broken_device(broken)
            return
        logger.critical(
            "Model %s: the engine stopped, so the process ends and is restarted", self._settings.name, exc_info=error
        )
        self._end_process("it stopped, and its runner starts again; the server's log has the details")

    def _end_process(self, reason: str) -> None:
        """Refuse all further items, and request the end of this process."""
        self._broken = True
        self._set_state(ModelState("failed", reason, stopped=True))
        self._on_broken()

    def _set_state(self, state: ModelState) -> None:
        self.state = state
        if self._metrics is not None:
            self._metrics.record_ready(state.status == "ready")
            if state.status in ("failed", "unloaded"):
                self._metrics.reset_activity()
        changed, self._state_changed = self._state_changed, asyncio.Event()
        changed.set()

    async def _release_memory(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._compute, _release_memory)

    def _start_runner(
        self,
    ) -> tuple[Callable[..., Engine], Signature, ExecutionPlan, Item | None, Task | None, int | None]:
        """Load the model, and return what an engine needs; runs in the compute thread."""
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as preloader:
            compiler = preloader.submit(preload_model, self._settings)
            # Imported here, while the model is fetched: these are the first imports of torch and take seconds.
            with gc_paused():
                from runners.models.library_pages import drop_library_pages
                from runners.models.memory import trim_heap
                from runners.models.pretrained import prepare_torch

        redirect_library_logs()
        prepare_torch(self._settings)
        runner = start_runner(self._settings, compiler.result())
        self._observer = DeferredObserver(self._metrics) if self._metrics is not None else None
        if self._metrics is not None:
            self._metrics.record_failed_optimizations(Optimization, runner.fallbacks.failed)
        freeze_gc()
        trim_heap()
        drop_library_pages()
        return (
            get_engine_factory(runner, self._observer),
            runner.signature,
            runner.execution_plan,
            runner.create_example_item(),
            runner.settings.task,
            runner.context_length,
        )


def _find_broken_device(error: Exception) -> BrokenDevice | None:
    try:
        raise_if_broken(error)
    except BrokenDevice as broken:
        return broken
    return None


def _release_memory() -> None:
    from runners.models.memory import release_dropped_model

    release_dropped_model()
