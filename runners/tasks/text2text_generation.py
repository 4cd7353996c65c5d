"""Text-to-text generation with encoder-decoder models, such as summaries and translations."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import ContextLengthExceeded, InvalidRequest
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.tasks.text2text_generation import SPEC, Text2TextGenerationParameters
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from runners.engines.generation_request import GenerationRequest, SequenceOutput
from runners.engines.runner import Job
from runners.tasks.generation import GenerationRunner


class Text2TextGenerationRunner(GenerationRunner[Text2TextGenerationParameters, bool]):
    """Runner whose answer is a list of `{"generated_text": str}`, one per sequence."""

    spec = SPEC
    parameters_type = Text2TextGenerationParameters
    auto_class = "AutoModelForSeq2SeqLM"

    def load(self) -> None:
        super().load()
        self._languages = _find_languages(self.generator.tokenizer)
        self._aliases = _find_aliases(self._languages)
        self._default_src_lang = getattr(self.generator.tokenizer, "src_lang", None)
        # New tokens: the decoder's maximum length without its start token.
        limit = self.generator.max_output_length
        self._max_new_tokens = max(limit - 1, 1) if limit is not None else sys.maxsize

    def tokenize(self, request: TokenizerRequest) -> TokenizerAnswer:
        tokenizer: Any = self.generator.tokenizer
        if self._languages and tokenizer.src_lang != self._default_src_lang:  # the previous item may have set another
            tokenizer.src_lang = self._default_src_lang
        return super().tokenize(request)

    def prepare(self, instance: Any, parameters: Text2TextGenerationParameters) -> Job[GenerationRequest, bool]:
        if parameters.prompt_logprobs is not None:
            raise InvalidRequest(
                "an encoder-decoder model does not predict its input, so that it has no log probabilities",
                field="parameters.prompt_logprobs",
            )
        if parameters.truncate_prompt_tokens is not None:
            raise InvalidRequest(
                "an encoder-decoder model reads its whole input: set parameters.truncation to cut it",
                field="parameters.truncate_prompt_tokens",
            )
        target = self._resolve_language(parameters.tgt_lang, "tgt_lang")
        forced = self._languages[target] if target is not None else None
        if isinstance(instance, list) and instance:
            input_ids = self._fit_length(token_ids(instance, self.generator.input_vocabulary), parameters.truncation)
        elif isinstance(instance, str):
            input_ids = self._tokenize((parameters.prefix or "") + instance, parameters)
        else:
            raise InvalidRequest("must be a string or a list of token ids")
        wanted = self.resolve_max_new_tokens(parameters, 1, "the decoder's start")
        max_new_tokens = min(wanted, self._max_new_tokens)
        rows = self.build_rows(input_ids, max_new_tokens, parameters, forced_bos_token_id=forced)
        return Job(rows, parameters.details)

    def finish(self, job: Job[GenerationRequest, bool], outputs: Sequence[SequenceOutput]) -> Any:
        return [
            {"generated_text": output.text} | (self.build_details(job, output) if job.context else {})
            for output in outputs
        ]

    def _tokenize(self, text: str, parameters: Text2TextGenerationParameters) -> list[int]:
        tokenizer: Any = self.generator.tokenizer
        limit = self.generator.max_length
        source = self._resolve_language(parameters.src_lang, "src_lang") or self._default_src_lang
        if self._languages and tokenizer.src_lang != source:  # the previous item may have set another one
            tokenizer.src_lang = source
        cut = parameters.truncation and limit is not None
        # Not verbose, because the tokenizer would warn about the length, which is checked here.
        input_ids: list[int] = tokenizer(text, truncation=cut, max_length=limit, verbose=False)["input_ids"]
        if not input_ids:
            raise InvalidRequest("the text is empty: it has no token for the model to read")
        return self._fit_length(input_ids, cut)

    def _fit_length(self, input_ids: list[int], cut: bool) -> list[int]:
        limit = self.generator.max_length
        if cut:
            return input_ids[:limit]
        if limit is not None and len(input_ids) > limit:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {limit} tokens, and the text has {len(input_ids)} tokens: "
                "shorten it, or set parameters.truncation to true"
            )
        return input_ids

    def _resolve_language(self, code: str | None, name: str) -> str | None:
        """Return the model's code of a language, or None if none is given.

        Args:
            name: name of the parameter, for messages.

        Raises:
            InvalidRequest: the model has no language codes, or not this one.
        """
        if code is None:
            return None
        if not self._languages:
            raise InvalidRequest("this model has no language codes", field=f"parameters.{name}")
        if code in self._languages:
            return code
        if (known := self._aliases.get(_normalize(code))) is None:
            some = ", ".join(sorted(self._languages)[:5])
            raise InvalidRequest(
                f"'{code[:40]}' is none of the model's {len(self._languages)} languages, "
                f"which are {some}{' and others' * (len(self._languages) > 5)}",
                field=f"parameters.{name}",
            )
        return known


def _find_languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the tokenizer's language codes with their tokens, or an empty dict without any."""
    if not isinstance(getattr(type(tokenizer), "src_lang", None), property):
        return {}
    of_m2m100: dict[str, str] = getattr(tokenizer, "lang_code_to_token", {})
    of_mbart: dict[str, int] = getattr(tokenizer, "lang_code_to_id", {})
    of_nllb: list[str] = getattr(tokenizer, "extra_special_tokens", [])
    tokens = of_m2m100 or {code: code for code in of_mbart or of_nllb}
    ids = {code: tokenizer.convert_tokens_to_ids(token) for code, token in tokens.items()}
    return {code: i for code, i in ids.items() if isinstance(i, int) and i != tokenizer.unk_token_id}


def _find_aliases(languages: Iterable[str]) -> dict[str, str]:
    """Return unambiguous short names of language codes.

    For example, `python` is an alias of `__python__`, and `en` of `en_XX`.
    """
    candidates: dict[str, set[str]] = {}
    for code in languages:
        for name in (_normalize(code), _normalize(code).split("_")[0]):
            candidates.setdefault(name, set()).add(code)
    # A complete code takes precedence over the first part of another one.
    complete = {_normalize(code): code for code in languages}
    return {name: codes.pop() for name, codes in candidates.items() if len(codes) == 1} | complete


def _normalize(code: str) -> str:
    return code.strip("_").replace("-", "_").casefold()


#: Runner of this task.
RUNNER = Text2TextGenerationRunner
