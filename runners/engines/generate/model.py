"""Generative model with the generation settings of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    SequenceBiasLogitsProcessor,
)

from runners.engines.generate.grammar import GrammarCompiler
from runners.engines.generation_request import GenerationRequest
from runners.models.pretrained import Pretrained

#: Options of a checkpoint's generation_config.json that are ignored: those set by settings and requests, those that
#: change the form of the output, and decoding methods that need a second model, a tokenizer or code of the hub.
_IGNORED = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "stop_strings",
    "do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "num_return_sequences", "return_dict_in_generate", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "constraints", "force_words_ids", "num_beam_groups", "diversity_penalty", "penalty_alpha",
    "dola_layers", "low_memory", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "token_healing",
    "guidance_scale", "watermarking_config",
)  # fmt: skip

#: Options that forbid, force or discourage tokens; they are applied to each sequence separately.
_RULES = (
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "renormalize_logits",
)  # fmt: skip

#: Values of these options that have no effect.
_NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "remove_invalid_values": False, "renormalize_logits": False,
}  # fmt: skip


class GenerationModel:
    """Model with the rules that its checkpoint sets for every sequence.

    Attributes:
        kernels: kernels that the model computes with; None for PyTorch.
        seq2seq: the model is an encoder-decoder: the encoder computes the prompt, the decoder only the answer.
        context: length of the model's context in tokens; None if it has no limit.
        beams: number of beams that the checkpoint sets; 1 without beam search.
        stop: stop strings of the checkpoint.
        tokens: size of the input vocabulary.
        vocabulary: size of the output vocabulary, the model's logits.
        grammars: grammar compiler, to be used by the thread that tokenizes.
        eos: tokens that end a sequence.
        special_ids: tokens that are not text.
        skipped_ids: tokens that the tokenizer leaves out of a text without special tokens.
        pad: token for padding.
        takes_attention_mask: the model can mask padding.
        can_pad: sequences of different lengths may share a call of `generate`.
        rope_limit: length after which one sequence changes the rotary embedding of its whole batch; None for most.
        depends_on_max_length: the answer depends on `max_new_tokens`, so that a longer answer cannot be cut to a
            shorter one.
    """

    def __init__(self, pretrained: Pretrained) -> None:
        self.model: Any = pretrained.model
        self.kernels = pretrained.kernels
        # The computing thread decodes text as well, and fast tokenizers are not safe to share between threads.
        self.tokenizer: PreTrainedTokenizerBase = deepcopy(pretrained.tokenizer)
        self.special_ids = frozenset(self.tokenizer.all_special_ids)
        added = self.tokenizer.added_tokens_decoder.items()
        self.skipped_ids = self.special_ids | {token for token, entry in added if entry.special}
        self.context = pretrained.max_length
        own: GenerationConfig = self.model.generation_config
        self.tokens = pretrained.tokens
        self.seq2seq = bool(self.model.config.is_encoder_decoder)
        self.beams: int = own.num_beams or 1
        self.stop: tuple[str, ...] = (own.stop_strings,) if isinstance(own.stop_strings, str) else ()
        if isinstance(own.stop_strings, list):
            self.stop = tuple(own.stop_strings)
        self._least_length, self._least_new_tokens = own.min_length or 0, own.min_new_tokens or 0
        for name in _IGNORED:
            setattr(own, name, None)
        if own.eos_token_id is None:
            own.eos_token_id = self.tokenizer.eos_token_id
        self.eos = frozenset([own.eos_token_id] if isinstance(own.eos_token_id, int) else own.eos_token_id or ())
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self.vocabulary: int = self.model.config.vocab_size if head is None else head.weight.shape[0]
        self.grammars = GrammarCompiler(pretrained.tokenizer, self.vocabulary, self.eos)
        own.pad_token_id = self.pad = self._choose_pad_token(own)
        self.depends_on_max_length = self.beams > 1 or own.forced_eos_token_id is not None
        self.rope_limit = _find_rope_limit(self.model.config, self.context)
        self.takes_attention_mask = "attention_mask" in signature(self.model.forward).parameters
        self.can_pad = self.takes_attention_mask and not getattr(self.model, "_is_stateful", False)
        if self.beams == 1:  # with beam search, `generate` applies the rules
            own.eos_token_id = None
            self._rules = {name: getattr(own, name, None) for name in _RULES}
            for name in _RULES:
                setattr(own, name, None)
        else:
            self._rules = {}
            no_ngrams = own.encoder_no_repeat_ngram_size or own.encoder_repetition_penalty not in (None, 1.0)
            self.can_pad &= not (no_ngrams if self.seq2seq else own.no_repeat_ngram_size)

    @property
    def device(self) -> torch.device:
        """Device of the model's inputs."""
        return torch.device(self.model.device)

    def _choose_pad_token(self, own: GenerationConfig) -> int:
        """Return a token for padding: any token of the vocabulary, because padding is masked."""
        candidates = (own.pad_token_id, self.tokenizer.pad_token_id, *sorted(self.eos))
        return next((int(i) for i in candidates if i is not None and 0 <= i < self.tokens), 0)

    def min_new_tokens(self, prompt_length: int) -> int:
        """Return the least number of new tokens that the checkpoint sets."""
        used = 1 if self.seq2seq else prompt_length
        return max(self._least_new_tokens, self._least_length - used, 0)

    def start_tokens(self, request: GenerationRequest) -> list[int]:
        """Return the tokens before the first new one, as logits processors expect them."""
        if not self.seq2seq:
            return request.input_ids
        own = self.model.generation_config
        start = own.decoder_start_token_id if own.decoder_start_token_id is not None else own.bos_token_id
        return list(start) if isinstance(start, list) else [start]

    def make_rules(self, request: GenerationRequest) -> LogitsProcessorList:
        """Create the logits processors of one sequence; most sequences have none.

        Their arguments are the whole sequence, shape (1, tokens), and its logits, shape (1, vocabulary).
        """
        start = self.start_tokens(request)
        rules = self._make_transformers_rules(request, start)
        if request.logit_bias:
            bias: Any = SequenceBiasLogitsProcessor
            rules.append(bias({(token,): float(value) for token, value in request.logit_bias.items()}))
        if request.presence_penalty or request.frequency_penalty:
            rules.append(PresenceAndFrequency(len(start), request.presence_penalty, request.frequency_penalty))
        return rules

    def _make_transformers_rules(self, request: GenerationRequest, start: Sequence[int]) -> LogitsProcessorList:
        requested: Mapping[str, Any] = {
            "repetition_penalty": request.repetition_penalty,
            "forced_bos_token_id": request.forced_bos_token_id,
            "min_new_tokens": request.min_new_tokens or None,
        }
        values = {**self._rules, **{name: value for name, value in requested.items() if value is not None}}
        values = {name: value for name, value in values.items() if value is not None and value != _NEUTRAL.get(name)}
        if not values:
            return LogitsProcessorList()
        config_class: Any = GenerationConfig
        config = config_class(max_length=len(start) + request.max_new_tokens, **values)
        if ends := self.eos | request.end_ids | request.stop_token_ids:
            config._eos_token_tensor = torch.tensor(sorted(ends), device=self.device)
        encoder_input_ids = torch.tensor([request.input_ids], device=self.device)
        # A private method, but the only one that knows all processors; `generate` would apply them to padded batches.
        processors: LogitsProcessorList = self.model._get_logits_processor(
            config, len(start), encoder_input_ids=encoder_input_ids, device=self.device
        )
        return processors


def _find_rope_limit(config: Any, context: int | None) -> int | None:
    """Return the length after which a sequence changes the rotary embedding of its batch.

    Longrope and dynamic NTK use the longest sequence of a batch. Returns None for all others.
    """
    config = config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, Mapping))]
    for kind in kinds:
        if kind.get("rope_type") in ("longrope", "dynamic"):
            limit = kind.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", config.max_position_embeddings
            )
            if context is None or limit < context:
                return int(limit)
    return None


class PresenceAndFrequency(LogitsProcessor):
    """Logits processor of OpenAI's penalties.

    Each generated token loses `presence` once, and `frequency` for each occurrence.

    Source: https://platform.openai.com/docs/guides/advanced-usage
    """

    def __init__(self, start: int, presence: float, frequency: float) -> None:
        self._start = start
        self._presence = presence
        self._frequency = frequency

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        tokens, times = input_ids[0, self._start :].unique(return_counts=True)
        scores = scores.clone()
        scores[0, tokens] -= self._presence + self._frequency * times
        return scores
