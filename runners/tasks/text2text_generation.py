"""Text to text: summaries, translations and other answers of encoder-decoder models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.parameters import token_ids
from hf_runtime.contract.tasks.text2text_generation import SPEC, Text2TextGenerationParameters
from runners.engines.generation_request import GenerationRequest, SequenceOutput
from runners.engines.runner import Job
from runners.tasks.generation import GenerationRunner


class Text2TextGenerationRunner(GenerationRunner[Text2TextGenerationParameters, bool]):
    """The answer is a list of `{"generated_text": str}`, one for each sequence."""

    spec = SPEC
    parameters_type = Text2TextGenerationParameters
    auto_class = "AutoModelForSeq2SeqLM"

    def load(self) -> None:
        super().load()
        self._languages = _languages(self.generator.tokenizer)
        self._codes = _codes(self._languages)
        self._own_src_lang = getattr(self.generator.tokenizer, "src_lang", None)
        # Tokens that may be written: all that the decoder can read, without its start.
        limit = self.generator.max_output_length
        self._room = max(limit - 1, 1) if limit is not None else sys.maxsize

    def prepare(self, instance: Any, parameters: Text2TextGenerationParameters) -> Job[GenerationRequest, bool]:
        target = self._language(parameters.tgt_lang, "tgt_lang")
        forced = self._languages[target] if target is not None else None
        if isinstance(instance, list) and instance:
            input_ids = self._fitted(token_ids(instance, self.generator.input_vocabulary), parameters.truncation)
        elif isinstance(instance, str):
            input_ids = self._tokens((parameters.prefix or "") + instance, parameters)
        else:
            raise InvalidRequest("must be a string or a list of token ids")
        wanted = self.wanted_tokens(parameters, 1, "the decoder's start")
        rows = self.rows(input_ids, min(wanted, self._room), parameters, forced_bos_token_id=forced)
        return Job(rows, parameters.details)

    def finish(self, job: Job[GenerationRequest, bool], outputs: Sequence[SequenceOutput]) -> Any:
        return [
            {"generated_text": written.text} | (self.details(job, written) if job.context else {})
            for written in outputs
        ]

    def _tokens(self, text: str, parameters: Text2TextGenerationParameters) -> list[int]:
        tokenizer: Any = self.generator.tokenizer
        limit = self.generator.max_length
        source = self._language(parameters.src_lang, "src_lang") or self._own_src_lang
        if self._languages and tokenizer.src_lang != source:  # the item before may have left another one behind
            tokenizer.src_lang = source
        cut = parameters.truncation and limit is not None
        # Not verbose: it would warn of the length, which is checked here.
        input_ids: list[int] = tokenizer(text, truncation=cut, max_length=limit, verbose=False)["input_ids"]
        if not input_ids:
            raise InvalidRequest("the text is empty: it has no token for the model to read")
        return self._fitted(input_ids, cut)

    def _fitted(self, input_ids: list[int], cut: bool) -> list[int]:
        limit = self.generator.max_length
        if cut:
            return input_ids[:limit]
        if limit is not None and len(input_ids) > limit:
            raise InvalidRequest(
                f"the text has {len(input_ids)} tokens and the model reads {limit}: shorten it, or set "
                "parameters.truncation to true"
            )
        return input_ids

    def _language(self, code: str | None, name: str) -> str | None:
        """The code of a language as the model has it.

        Raises:
            InvalidRequest: the model knows no languages by name, or not this one.
        """
        if code is None:
            return None
        if not self._languages:
            raise InvalidRequest("this model has no language codes", field=f"parameters.{name}")
        if code in self._languages:
            return code
        if (known := self._codes.get(_plain(code))) is None:
            some = ", ".join(sorted(self._languages)[:5])
            raise InvalidRequest(
                f"'{code[:40]}' is none of the model's {len(self._languages)} languages, "
                f"which are {some}{' and others' * (len(self._languages) > 5)}",
                field=f"parameters.{name}",
            )
        return known


def _languages(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Language codes and their tokens; none if the tokenizer marks no language."""
    if not isinstance(getattr(type(tokenizer), "src_lang", None), property):
        return {}
    of_m2m100: dict[str, str] = getattr(tokenizer, "lang_code_to_token", {})
    of_mbart: dict[str, int] = getattr(tokenizer, "lang_code_to_id", {})
    of_nllb: list[str] = getattr(tokenizer, "extra_special_tokens", [])
    tokens = of_m2m100 or {code: code for code in of_mbart or of_nllb}
    ids = {code: tokenizer.convert_tokens_to_ids(token) for code, token in tokens.items()}
    return {code: i for code, i in ids.items() if isinstance(i, int) and i != tokenizer.unk_token_id}


def _codes(languages: Iterable[str]) -> dict[str, str]:
    """Other names of languages, and their codes: `python` of `__python__`, `en` of `en_XX`; none that could be two."""
    claims: dict[str, set[str]] = {}
    for code in languages:
        for name in (_plain(code), _plain(code).split("_")[0]):
            claims.setdefault(name, set()).add(code)
    # What a code is in full goes before what another one begins with.
    whole = {_plain(code): code for code in languages}
    return {name: codes.pop() for name, codes in claims.items() if len(codes) == 1} | whole


def _plain(code: str) -> str:
    return code.strip("_").replace("-", "_").casefold()


#: Computes the task.
RUNNER = Text2TextGenerationRunner
