"""A model's life in its process: loaded, unloaded and loaded again; and its items, from wherever they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple, cast

from hf_runtime.contract.errors import InferenceFailed, LoadError, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.contract.signature import Signature
from hf_runtime.observability.engine_observer import EngineObserver, LateObserver
from hf_runtime.observability.item_spans import ItemTracing
from hf_runtime.observability.model_metrics import ModelMetrics
from hf_runtime.observability.setup import adopt_libraries
from hf_runtime.rpc.messages import ModelState
from hf_runtime.settings import ModelSettings, Task
from runners.engines.device_errors import BrokenDevice, broken_by, raise_if_broken
from runners.engines.engine import Engine, engine_for
from runners.engines.runner import ExecutionPlan
from runners.failure_reason import foreseen, unforeseen
from runners.kernels.fallbacks import Optimization
from runners.loaded import LoadedModel
from runners.models.garbage import freeze_gc, gc_paused
from runners.preload import begin
from runners.retry_schedule import pauses
from runners.start import start_runner
from runners.storage.source import UnreachableError

logger = logging.getLogger(__name__)

_Step = Callable[[], Awaitable[None]]


class _Reason(NamedTuple):
    """Why a model could not be loaded.

    Attributes:
        may_pass: its source could not be reached, so that another try may help.
    """

    text: str
    may_pass: bool = False


class ModelHost:
    """Loads one model beside the event loop, then answers its items.

    Args:
        on_broken: is called once the device computes nothing any more in this process, which is to end.
        pauses: seconds before each further try to load a model whose source could not be reached.
        sleep: lets them pass.

    Attributes:
        state: how the model is.
    """

    def __init__(
        self,
        settings: ModelSettings,
        tracing: ItemTracing | None = None,
        metrics: ModelMetrics | None = None,
        on_broken: Callable[[], None] = lambda: None,
        *,
        pauses: Callable[[], Iterator[float]] = pauses,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._on_broken = on_broken
        self._broken = False
        self._metrics = metrics
        self._observer: LateObserver | None = None
        self._settings = settings
        self._tracing = tracing
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._model: LoadedModel | None = None
        self._task = settings.task
        #: What was asked for: one step after the other, in order, so that none finds another halfway.
        self._asked: asyncio.Queue[tuple[_Step, asyncio.Future[None]]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._make_pauses, self._sleep = pauses, sleep
        self._pauses = pauses()
        #: Seconds until it is loaded again by itself; None if it is not.
        self._retry_in: float | None = None
        self.state = ModelState("loading")

    async def run(self) -> None:
        """Load, warm up, serve and do what is asked until cancelled.

        A model that cannot be loaded leaves the state `failed`; loading may be asked for again. Where its source could
        not be reached, it is tried again by itself, until somebody unloads it.
        """
        try:
            await self._do(self._load)
            while True:
                step, asked = await self._next_step()
                error = await self._do(step)
                if asked is None or asked.done():
                    continue
                if error is None:
                    asked.set_result(None)
                else:
                    asked.set_exception(error)
        finally:
            if self._model is not None:
                await self._model.stop()
            self._compute.shutdown(wait=False, cancel_futures=True)

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        request_context: RequestContext | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one item; cancel the future if nobody wants the answer any more.

        Args:
            request_context: the HTTP request.

        Raises:
            InvalidRequest: the task's answers do not come in pieces.
            ModelNotReady: the model is loading, has failed, or was unloaded.
            Overloaded: the queue is full.
        """
        if self._model is None or self.state.status != "ready":
            raise self.state.refusal(self._settings.name)
        if self._tracing is None:
            return self._model.submit(Item(instance, parameters, request_context), listener)
        trace = self._tracing.item(request_context)
        try:
            future = self._model.submit(Item(instance, parameters, request_context, trace), listener)
        except ServingError as error:
            trace.failed(error.code)
            raise
        # After the engine's own callbacks, which may have something to tell the trace.
        future.add_done_callback(trace.ended)
        return future

    def load(self) -> asyncio.Future[None]:
        """Load the model if it is not loaded; the future tells when it is ready.

        Its error is `ModelNotReady` if the model cannot be loaded. Cancelling it stops nothing: the next who asks
        would find the model halfway.
        """
        return self._ask(self._load)

    def unload(self) -> asyncio.Future[None]:
        """Refuse new items, finish those that are here and drop the model; the future tells when that is done."""
        return self._ask(self._unload)

    async def states(self) -> AsyncIterator[ModelState]:
        """The state now, then each new one."""
        while True:
            changed = self._changed
            yield self.state
            await changed.wait()

    def _ask(self, step: _Step) -> asyncio.Future[None]:
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((step, asked))
        return asked

    async def _next_step(self) -> tuple[_Step, asyncio.Future[None] | None]:
        """What is asked for next, or another try once its time has come."""
        if self._retry_in is None:
            return await self._asked.get()
        asked, pause = asyncio.ensure_future(self._asked.get()), asyncio.ensure_future(self._sleep(self._retry_in))
        try:
            await asyncio.wait((asked, pause), return_when=asyncio.FIRST_COMPLETED)
            return asked.result() if asked.done() else (self._load, None)
        finally:
            asked.cancel()
            pause.cancel()

    async def _do(self, step: _Step) -> ServingError | None:
        try:
            await step()
        except ServingError as error:
            return error
        except Exception:
            logger.exception("model %s", self._settings.name)
            return InferenceFailed("the server failed; its log has the details")
        return None

    async def _load(self) -> None:
        if self._model is not None:
            return
        if self._broken:
            raise self.state.refusal(self._settings.name)
        if self.state.status == "failed":
            await self._give_back_memory()
        self._become(ModelState("loading"))
        started = monotonic()
        self._retry_in = None
        reason = await self._load_or_reason()
        if reason is not None:
            # Before it is told: who tries again needs the room.
            if not self._broken:
                await self._give_back_memory()
                self._become(self._failed_for(reason))
            raise self.state.refusal(self._settings.name)
        self._pauses = self._make_pauses()
        took = monotonic() - started
        logger.info("model %s is ready after %.1f s", self._settings.name, took)
        if self._metrics is not None:
            self._metrics.loaded(took)
        assert self._model is not None, "this is a bug: there is neither a model nor a reason"
        self._become(ModelState("ready", signature=self._model.signature, task=self._task))

    def _failed_for(self, reason: _Reason) -> ModelState:
        if not reason.may_pass:
            return ModelState("failed", reason.text)
        self._retry_in = next(self._pauses)
        again = f"It is tried again in {self._retry_in:.0f} s."
        logger.warning("model %s: %s", self._settings.name, again)
        return ModelState("failed", f"{reason.text} {again}", retried=True)

    async def _load_or_reason(self) -> _Reason | None:
        """Why the model could not be loaded; a frame of its own, as errors keep what was loaded before them."""
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._compute, self._make)
        except (LoadError, ServingError) as error:
            # Not the error itself: who keeps lines of a log would keep the model.
            reason = foreseen(error, self._settings)
            logger.error("model %s: %s", self._settings.name, reason)
            return _Reason(reason, may_pass=isinstance(error, UnreachableError))
        except Exception as error:
            if (broken := _broken_device(error)) is not None:
                self._break(broken)
                return _Reason(str(self.state.reason))
            reason = unforeseen(error, self._settings)
            logger.error("model %s could not be loaded: %s (LOG_LEVEL=DEBUG shows where)", self._settings.name, reason)
            logger.debug("where model %s could not be loaded", self._settings.name, exc_info=True)
            return _Reason(reason)
        make_engine, signature, execution_plan, example, self._task = made
        engine = make_engine(max_queue_size=self._settings.max_queue_size, compute=self._compute)
        self._model = model = LoadedModel(engine, signature, self._failed)
        if example is not None and (unanswered := await self._unanswered(model, example)) is not None:
            return unanswered
        if self._observer is not None and self._metrics is not None:
            self._observer.begin()
            self._metrics.execution_plan(
                execution_plan.rows, execution_plan.tokens, execution_plan.workers, execution_plan.threads
            )
        return None

    async def _unanswered(self, model: LoadedModel, example: Item) -> _Reason | None:
        """Send an example the way that clients' items go; return why it has no answer, with the model stopped."""
        try:
            await model.submit(example)
        except Exception as error:
            reason = unforeseen(error, self._settings)
            logger.error("model %s does not answer an example: %s", self._settings.name, reason)
            await model.stop()
            self._model = None
            return _Reason(reason)
        return None

    async def _unload(self) -> None:
        self._retry_in, self._pauses = None, self._make_pauses()
        if self.state.status == "unloaded":
            return
        if self._model is not None:
            self._become(ModelState("unloading"))
            await self._model.finish()
            self._model = None
        await self._give_back_memory()
        logger.info("model %s is unloaded", self._settings.name)
        self._become(ModelState("unloaded", "unloaded"))

    def _break(self, error: BrokenDevice) -> None:
        logger.critical(
            "model %s: its device computes nothing any more in this process, which ends and is started again: %s",
            self._settings.name, error, exc_info=error.__cause__,
        )  # fmt: skip
        self._give_up("its device failed, and its runner starts again")

    def _failed(self, error: BaseException | None) -> None:
        self._model = None
        if (broken := broken_by(error)) is not None:
            self._break(broken)
            return
        logger.critical(
            "model %s stopped, so its process ends and is started again", self._settings.name, exc_info=error
        )
        self._give_up("it stopped, and its runner starts again; the server's log has the details")

    def _give_up(self, reason: str) -> None:
        """Serve nothing any more in this process, and have it end."""
        self._broken = True
        self._become(ModelState("failed", reason, stopped=True))
        self._on_broken()

    def _become(self, state: ModelState) -> None:
        self.state = state
        if self._metrics is not None:
            self._metrics.ready(state.status == "ready")
            if state.status in ("failed", "unloaded"):
                self._metrics.idle()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _give_back_memory(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._compute, _give_back_memory)

    def _make(self) -> tuple[Callable[..., Engine], Signature, ExecutionPlan, Item | None, Task | None]:
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as beside:
            begun = beside.submit(begin, self._settings)
            # Imported here, as the first thing in this process that needs torch: it takes seconds.
            with gc_paused():
                from runners.models.library_pages import give_back_library_pages
                from runners.models.memory import give_back_memory
                from runners.models.pretrained import prepare_torch

        adopt_libraries()
        prepare_torch(self._settings)
        runner = start_runner(self._settings, begun.result())
        self._observer = LateObserver(self._metrics) if self._metrics is not None else None
        if self._metrics is not None:
            self._metrics.optimizations(Optimization, runner.fallbacks.failed)
        freeze_gc()
        give_back_memory()
        give_back_library_pages()
        return (
            engine_for(runner, cast("EngineObserver | None", self._observer)),
            runner.signature,
            runner.execution_plan,
            runner.example_item(),
            runner.settings.task,
        )


def _broken_device(error: Exception) -> BrokenDevice | None:
    try:
        raise_if_broken(error)
    except BrokenDevice as broken:
        return broken
    return None


def _give_back_memory() -> None:
    from runners.models.memory import give_back_dropped

    give_back_dropped()
