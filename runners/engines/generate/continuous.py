"""Continuous batching: at any token, sequences join and leave those that are being written.

A step is one forward pass over the next token of each running sequence and pieces of prompts that are yet to be read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence as Parts

import torch

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.request_context import request_context
from runners.engines.batch.bisect import error_for_item, retry_in_halves
from runners.engines.generate.cache import CacheSlot, KVCache
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.incremental_model import IncrementalModel
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.prefix_cache import PrefixCache, longest, shared
from runners.engines.generate.sampling import Sampler
from runners.engines.generate.sequence import SequenceState
from runners.engines.rows import BatchLimits

logger = logging.getLogger(__name__)

#: Tokens beyond what is there for which a sequence must find memory to start.
_HEADROOM = 64

#: How many may go before the first in the queue because they find memory and it does not.
_PATIENCE = 64

#: How many are tried in one step: a long queue must not be gone through for every token.
_TRIES = 8


class _Running:
    """A sequence with its place in the cache.

    Attributes:
        ids: all of its tokens; those before `slot.length` have been read.
    """

    __slots__ = ("ids", "sequence", "slot")

    def __init__(self, sequence: SequenceState, ids: list[int], slot: CacheSlot) -> None:
        self.sequence = sequence
        self.ids = ids
        self.slot = slot

    @property
    def unread(self) -> int:
        """Tokens that the model has not seen: one while it writes, more while it reads the prompt."""
        return len(self.ids) - self.slot.length


class ContinuousDecoder(Decoder):
    """Writes with a decoder-only model whose attention `runners.engines.generate.attention` can take over."""

    def __init__(self, model: GenerationModel, stepping: IncrementalModel, cache: KVCache, limits: BatchLimits) -> None:
        super().__init__(limits)
        self._stepping = stepping
        self._cache = cache
        self._shelf = PrefixCache(cache)
        self._sampler = Sampler(model)
        self._waiting: deque[SequenceState] = deque()
        self._running: list[_Running] = []  # in order of their start
        self._overtaken = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def cache_usage(self) -> float:
        return self._cache.tokens / self._cache.budget

    @property
    def memory(self) -> int:
        return self._cache.longest

    def add(self, sequence: SequenceState) -> None:
        self._waiting.append(sequence)

    def step(self) -> None:
        self._let_go()
        self._admit()
        self._make_room()
        parts = self._parts()
        if parts:
            self.on_batch(len(parts), sum(count for _, count in parts), 0)
            self._compute_or_blame(parts)

    def abandon(self) -> list[SequenceState]:
        abandoned = [*(running.sequence for running in self._running), *self._waiting]
        self._running, self._waiting = [], deque()
        self._shelf.clear()
        self._cache.clear()
        return [sequence for sequence in abandoned if not sequence.finished]

    # Who runs

    def _let_go(self) -> None:
        # Asked once for each: the answer may change at any moment, when a client leaves.
        leaving = [running for running in self._running if running.sequence.finished]
        for running in leaving:
            self._running.remove(running)
            self._tell_left(running.sequence)
            if running.sequence.error is None:
                self._shelf.keep(running.ids, running.slot)
            self._cache.free(running.slot)
        self._waiting = deque(sequence for sequence in self._waiting if not sequence.finished)

    def _admit(self) -> None:
        """Start waiting sequences, in order, as far as rows and memory allow; one that does not fit yet may be
        overtaken by smaller ones, but not for ever."""
        tried = 0
        while tried < min(len(self._waiting), _TRIES) and len(self._running) < self.limits.max_rows:
            running = self._start(self._waiting[tried])
            if running is not None:
                del self._waiting[tried]
                self._running.append(running)
                self._tell_joined(running)
                self._overtaken = self._overtaken + 1 if tried else 0
                continue
            tried += 1
            if self._overtaken >= _PATIENCE:
                break
        if self._waiting and not self._running:
            # Nobody will make room: the system itself has no memory left.
            failed = self._waiting.popleft()
            failed.fail(InferenceFailed("there is not enough memory for this sequence"))
            self.on_tokens([failed])

    def _tell_joined(self, running: _Running) -> None:
        running.sequence.start()
        self.on_start(running.sequence)
        if logger.isEnabledFor(logging.DEBUG):
            with request_context(running.sequence.request_context):
                logger.debug(
                    "a sequence joins: %d tokens, %d of them read; %d sequences run, %d wait",
                    len(running.ids), running.slot.length, len(self._running), len(self._waiting),
                )  # fmt: skip

    def _tell_left(self, sequence: SequenceState) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            with request_context(sequence.request_context):
                reason = sequence.finish_reason or ("error" if sequence.error is not None else "cancelled")
                logger.debug(
                    "a sequence leaves: %d new tokens, %s; %d sequences run, %d wait",
                    len(sequence.tokens), reason, len(self._running), len(self._waiting),
                )  # fmt: skip

    def _start(self, sequence: SequenceState) -> _Running | None:
        ids = sequence.request.input_ids + sequence.tokens
        kept = [(running.ids, running.slot) for running in self._running]
        known = longest(ids, kept)
        covered = known[1] if known is not None else 0
        if any(max(covered, slot.length) < shared(ids[:-1], other) for other, slot in kept):
            return None  # what it begins with is being read for another one
        shelved = self._shelf.find(ids)
        if shelved is not None and shelved[1] > covered:
            known = shelved
        left = sequence.request.max_new_tokens - len(sequence.tokens)
        slot = self._allocate(len(ids) + min(left, _HEADROOM))
        if slot is None:
            return None
        if known is not None and known[0].slab.places:  # making room may have cost what was found
            slot.slab.copy(slot.index, known[0], known[1])
            slot.length = known[1]
            sequence.cached_tokens = max(sequence.cached_tokens, min(known[1], len(sequence.request.input_ids)))
        return _Running(sequence, ids, slot)

    def _allocate(self, tokens: int) -> CacheSlot | None:
        while (slot := self._cache.allocate(tokens)) is None:
            if not self._shelf.make_room():
                return None
        return slot

    def _make_room(self) -> None:
        """Give each sequence a place for its next token, if need be that of the youngest, which waits and is read
        again."""
        for running in list(self._running):
            while running in self._running and len(running.ids) > running.slot.capacity:
                if not (self._cache.grow(running.slot, len(running.ids)) or self._shelf.make_room()):
                    youngest = self._running.pop()
                    self._cache.free(youngest.slot)
                    self._waiting.appendleft(youngest.sequence)
                    logger.debug("no memory for %d sequences: one waits", len(self._running) + 1)

    # What is computed

    def _parts(self) -> list[tuple[_Running, int]]:
        """Sequences with the number of their tokens in this step.

        Those that write go on in any case. The rest is for prompts: half of it for the oldest, the other half for the
        shortest first, so that neither a long prompt nor many short ones keep the others out.
        """
        parts = [(running, 1) for running in self._running if running.unread == 1]
        reading = [running for running in self._running if running.unread > 1]
        room = max(self.limits.max_tokens - len(parts), 1)
        if reading:
            shares = dict.fromkeys(reading, 0)
            shares[reading[0]] = min(reading[0].unread, (room + 1) // 2)
            room -= shares[reading[0]]
            for running in sorted(reading, key=lambda running: running.unread):
                more = min(running.unread - shares[running], room)
                shares[running] += more
                room -= more
            parts += [(running, share) for running, share in shares.items() if share]
        return parts

    def _compute_or_blame(self, parts: Parts[tuple[_Running, int]]) -> None:
        with request_context(*(running.sequence.request_context for running, _ in parts)):
            failed = None
            try:
                written = self._compute(parts)
            except Exception as error:
                failed = error
            if failed is None:
                self.on_tokens(written)
                return
            # Outside of the handler, which would keep what the failed step holds.
            if len(parts) > 1:
                retry_in_halves(parts, "sequences", self._compute_or_blame, failed)
                return
            culprit = parts[0][0].sequence
            culprit.fail(error_for_item(failed))
            self.on_tokens([culprit])

    @torch.inference_mode()
    def _compute(self, parts: Parts[tuple[_Running, int]]) -> list[SequenceState]:
        """Read all parts; the sequences that got a token."""
        # A single token is computed with those of its slab, whether it ends a prompt or an unfinished answer.
        slabs = {id(slab): number for number, slab in enumerate(self._cache.slabs)}
        single = [running for running, count in parts if count == 1]
        single.sort(key=lambda running: (slabs[id(running.slot.slab)], running.slot.index))
        longer = [(running, count) for running, count in parts if count > 1]
        step = self._stepping.new_step(
            [(running.slot, running.ids[running.slot.length]) for running in single],
            [
                (running.slot, running.ids[running.slot.length : running.slot.length + count])
                for running, count in longer
            ],
        )
        ordered = [(running, 1) for running in single] + longer
        complete = [i for i, (running, count) in enumerate(ordered) if count == running.unread]
        logits = self._stepping.forward(step, step.ends[complete])
        writing = [ordered[i][0] for i in complete]
        if writing:
            self._sampler.step([running.sequence for running in writing], logits)
            self.on_numbers(self._sampler.only_nan)
        for running, count in ordered:
            running.slot.length += count
        for running in writing:
            running.ids.extend(running.sequence.tokens[-1:] if not running.sequence.error else [])
        return [running.sequence for running in writing]
