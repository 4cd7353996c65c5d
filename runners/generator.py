"""The call of `model.generate`: batches of prompts to tokens, each answer as if it were alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from loading.pretrained import Pretrained
from runners.prompt import Plan, Prompt, Sequences

#: Of a checkpoint's generation_config.json: what settings and requests decide here, what changes the form of the
#: output, and decoding methods that need a second model, a tokenizer or code of the hub.
_IGNORED = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "stop_strings",
    "do_sample", "temperature", "top_k", "top_p", "num_return_sequences",
    "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "constraints", "force_words_ids", "num_beam_groups", "diversity_penalty", "penalty_alpha", "dola_layers",
    "low_memory", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "token_healing",
)  # fmt: skip


class Generator:
    """A model with its own generation settings, those aside that a request decides.

    Attributes:
        seq2seq: the prompt is read by an encoder, and only the answer by the decoder.
        beams: 1 unless the model asks for beam search.
        stop: the model's own stop strings.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self._model, tokenizer = pretrained.model, pretrained.tokenizer
        self._context = pretrained.max_length
        own = self._model.generation_config
        self.seq2seq = bool(self._model.config.is_encoder_decoder)
        self.beams: int = own.num_beams or 1
        self.stop: tuple[str, ...] = (own.stop_strings,) if isinstance(own.stop_strings, str) else ()
        if isinstance(own.stop_strings, list):
            self.stop = tuple(own.stop_strings)
        self._least_length, self._least_new_tokens = own.min_length or 0, own.min_new_tokens or 0
        for name in _IGNORED:
            setattr(own, name, None)
        if own.eos_token_id is None:
            own.eos_token_id = tokenizer.eos_token_id
        self._eos = frozenset([own.eos_token_id] if isinstance(own.eos_token_id, int) else own.eos_token_id or ())
        own.pad_token_id = self._pad_token(own, tokenizer)
        # Where the end is near these may write otherwise: a longer answer cannot be cut to a shorter one.
        self._foresees_end = self.beams > 1 or own.forced_eos_token_id is not None
        self._reads_mask = "attention_mask" in signature(self._model.forward).parameters
        self._can_pad = self._reads_mask and not getattr(self._model, "_is_stateful", False)
        if self.seq2seq:
            self._can_pad &= not own.encoder_no_repeat_ngram_size and own.encoder_repetition_penalty in (None, 1.0)
        else:
            self._can_pad &= not own.no_repeat_ngram_size
        # This runs beside the thread that tokenizes, and a fast tokenizer is not safe to share between threads.
        self._tokenizer = deepcopy(tokenizer)

    def _pad_token(self, own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> int:
        """Any token will do, padding is masked, but the model must have it."""
        embeddings: Any = self._model.get_input_embeddings()
        known = embeddings.weight.shape[0]
        candidates = (own.pad_token_id, tokenizer.pad_token_id, *sorted(self._eos))
        return next((int(i) for i in candidates if i is not None and 0 <= i < known), 0)

    def min_new_tokens(self, prompt_length: int) -> int:
        """The least number of new tokens that the model asks for itself."""
        used = 1 if self.seq2seq else prompt_length
        return max(self._least_new_tokens, self._least_length - used, 0)

    def key(self, prompt: Prompt) -> Hashable:
        """Prompts of equal keys can share a call, and each gets the answer it would get alone."""
        if prompt.seed is not None:
            return object()  # equal to no other: a batch's random numbers depend on all its rows
        return (
            prompt.plan,
            None if self._can_pad else len(prompt.input_ids),
            prompt.max_new_tokens if self._foresees_end else None,
        )

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt]) -> list[Sequences]:
        """The answers to prompts of equal keys, in order."""
        outputs: dict[int, Sequences] = {}
        for group in self._groups(prompts):
            outputs.update(zip(group, self._generate([prompts[i] for i in group]), strict=True))
        return [outputs[i] for i in range(len(prompts))]

    def _groups(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Indices of prompts that go together.

        A row that is finished runs on to the end of its batch, and until then must not leave the model's context.
        """
        limit = None if self.seq2seq else self._context
        group: list[int] = []
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i].input_ids)):
            steps = max(prompts[j].max_new_tokens for j in [*group, i])
            if group and limit is not None and len(prompts[i].input_ids) + steps > limit:
                yield group
                group = []
            group.append(i)
        yield group

    def _generate(self, prompts: Sequence[Prompt]) -> list[Sequences]:
        plan = prompts[0].plan
        inputs = self._padded(prompts)
        start = 1 if self.seq2seq else inputs["input_ids"].shape[1]
        config = _config(plan, self.beams, max(prompt.max_new_tokens for prompt in prompts))
        ends = StoppingCriteriaList()
        if self.beams == 1:  # beam search shows its candidates to the criteria, not its rows
            ends.append(_RowEnds(prompts, start, self._tokenizer))
        with _random_numbers(prompts[0].seed, self._model.device):
            model: Any = self._model
            output = model.generate(**inputs, generation_config=config, stopping_criteria=ends)
        tokens = output[:, start:].tolist()
        return [
            [self._cut(prompt, tokens[row]) for row in range(i * plan.sequences, (i + 1) * plan.sequences)]
            for i, prompt in enumerate(prompts)
        ]

    def _padded(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Rows padded to the longest: on the left if the answer follows the prompt, else on the right."""
        shape = len(prompts), max(len(prompt.input_ids) for prompt in prompts)
        ids = torch.full(shape, self._model.generation_config.pad_token_id)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            length = len(prompt.input_ids)
            place = slice(0, length) if self.seq2seq else slice(shape[1] - length, None)
            ids[i, place] = torch.tensor(prompt.input_ids)
            mask[i, place] = 1
        inputs = {"input_ids": ids.to(self._model.device)}
        if self._reads_mask:
            inputs["attention_mask"] = mask.to(self._model.device)
        return inputs

    def _cut(self, prompt: Prompt, tokens: list[int]) -> list[int]:
        tokens = tokens[: prompt.max_new_tokens]
        return tokens[: next((i for i, token in enumerate(tokens) if token in self._eos | prompt.stop_ids), None)]


def _config(plan: Plan, beams: int, max_new_tokens: int) -> GenerationConfig:
    """The plan in transformers' words, where what is absent is the model's own."""
    options = {
        "do_sample": plan.sampling is not None,
        "num_return_sequences": plan.sequences,
        "num_beams": beams if beams > 1 else None,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": plan.min_new_tokens or None,
        "repetition_penalty": plan.repetition_penalty,
        "forced_bos_token_id": plan.forced_bos_token_id,
    }
    if plan.sampling is not None:
        options |= zip(("temperature", "top_k", "top_p"), plan.sampling, strict=True)
    config: Any = GenerationConfig
    made: GenerationConfig = config(**{name: value for name, value in options.items() if value is not None})
    return made


@contextmanager
def _random_numbers(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch for the time of a call, as `set_seed` would for good."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _RowEnds(StoppingCriteria):
    """Ends each row at its own length and its own stop strings."""

    def __init__(self, prompts: Sequence[Prompt], start: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self._prompts = [prompt for prompt in prompts for _ in range(prompt.plan.sequences)]
        self._done = [False] * len(self._prompts)
        self._start = start
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        new = input_ids[:, self._start :]
        for i, prompt in enumerate(self._prompts):
            if self._done[i]:
                continue
            self._done[i] = new.shape[1] >= prompt.max_new_tokens
            if prompt.stop and not self._done[i]:
                tokens = new[i].tolist()
                self._done[i] = tokens[-1] in prompt.stop_ids or prompt.is_stopped(self._tokenizer, tokens)
        return torch.tensor(self._done, device=input_ids.device)
