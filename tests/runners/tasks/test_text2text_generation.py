"""Promise: text to text answers as `model.generate` does, in any batch and language."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LEDConfig,
    LEDForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MBart50Tokenizer,
    NllbTokenizer,
    PLBartTokenizer,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CORPUS, bert_config, byte_level_tokenizer, save, with_generation_config, wordpiece_tokenizer

POSITIONS = 64
SMALL: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": POSITIONS, "init_std": 0.4,
}  # fmt: skip


def _t5(folder: Path, **generation: Any) -> Path:
    tokenizer = byte_level_tokenizer(POSITIONS)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    settings: dict[str, Any] = {"decoder_start_token_id": tokenizer.pad_token_id}
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, initializer_factor=3.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=0, **settings,
    )  # fmt: skip
    return with_generation_config(save(folder, T5ForConditionalGeneration, config, tokenizer), generation)


def _bart(folder: Path, **generation: Any) -> Path:
    tokenizer = byte_level_tokenizer(POSITIONS)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    config = BartConfig(
        **SMALL, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    return with_generation_config(save(folder, BartForConditionalGeneration, config, tokenizer), generation)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bart(tmp_path_factory.mktemp("bart"))


@pytest.fixture(params=["t5", "bart"])
def folder(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def runner_of_t5(t5: Path) -> Text2TextGenerationRunner:
    return _runner(t5)


def _runner(folder: Path, **settings: Any) -> Text2TextGenerationRunner:
    runner = Text2TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text2text-generation", **settings))
    runner.load()
    return runner


def _answer(runner: Text2TextGenerationRunner, text: str, **parameters: Any) -> Any:
    """Return the text of the only answer, or the error."""
    (answer,) = runner.predict([Item(text, parameters)])
    return answer if isinstance(answer, InvalidRequest) else answer[0]["generated_text"]


class Oracle:
    """Reference answers of plain transformers, one input at a time."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def __call__(self, text: str, truncation: bool = False, **options: Any) -> list[str]:
        inputs = self.tokenizer(text, return_tensors="pt", truncation=truncation)
        with torch.inference_mode():
            out = self.model.generate(**inputs, **options)
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in out]


def _invalid(answer: Any, *named: str) -> None:
    assert isinstance(answer, InvalidRequest)
    for text in named:
        assert text in answer.message


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("make", [_t5, _bart])
def test_a_mixed_batch_answers_each_input_as_generate_does(
    tmp_path: Path, make: Callable[..., Path], beams: int
) -> None:
    folder = make(tmp_path, num_beams=beams)
    runner, oracle = _runner(folder), Oracle(folder)
    items = [Item(text[: 5 + 9 * i], {"max_new_tokens": n}) for i, text in enumerate(CORPUS) for n in (4, 4 + 2 * i)]
    answers = [answer[0]["generated_text"] for answer in runner.predict(items)]
    assert answers == [oracle(item.instance, **item.parameters)[0] for item in items]
    assert len(set(answers)) > len(CORPUS)


def test_a_greedy_batch_is_one_call_if_its_end_is_unknown(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, oracle = _runner(t5), Oracle(t5)
    calls: list[int] = []
    model: Any = generator_of(runner).pretrained.model
    generate = model.generate

    def counted(**arguments: Any) -> Any:
        calls.append(len(arguments["input_ids"]))
        return generate(**arguments)

    monkeypatch.setattr(model, "generate", counted)
    stop = oracle(CORPUS[0], max_new_tokens=12)[0][3:5]
    items = [Item(text, {"max_new_tokens": 3 * i + 1, "stop": stop}) for i, text in enumerate(CORPUS)]
    answers = runner.predict(items)
    assert calls == [len(CORPUS)]
    for item, answer in zip(items, answers, strict=True):
        alone = oracle(item.instance, max_new_tokens=item.parameters["max_new_tokens"])[0]
        assert answer == [{"generated_text": alone.split(stop)[0]}]


def test_a_seed_gives_the_same_texts_alone_and_in_a_batch(folder: Path) -> None:
    runner = _runner(folder)
    options: dict[str, Any] = {
        "do_sample": True,
        "top_p": 0.9,
        "temperature": 1.5,
        "num_return_sequences": 3,
        "max_new_tokens": 9,
    }
    items = [Item(CORPUS[0]), *(Item(CORPUS[1], {**options, "seed": seed}) for seed in (1, 7))]
    answers = runner.predict(items)
    assert answers == [runner.predict([item])[0] for item in items]
    assert answers[1] != answers[2]
    _invalid(_answer(runner, "a", num_return_sequences=2), "parameters.num_return_sequences")


# Lengths


def test_max_length_counts_the_decoders_prompt(folder: Path) -> None:
    runner, oracle = _runner(folder), Oracle(folder)
    assert _answer(runner, CORPUS[0], max_length=9) == oracle(CORPUS[0], max_length=9)[0]
    assert _answer(runner, CORPUS[0]) == oracle(CORPUS[0], max_new_tokens=20)[0]
    assert _answer(runner, CORPUS[0], max_length=2, max_new_tokens=5) == oracle(CORPUS[0], max_new_tokens=5)[0]
    assert _answer(_runner(folder, max_length=9), CORPUS[0]) == oracle(CORPUS[0], max_length=9)[0]
    _invalid(_answer(runner, CORPUS[0], max_length=1), "max_length is 1", "takes 1")


def test_new_tokens_end_with_the_decoders_positions(bart: Path) -> None:
    expected = Oracle(bart)(CORPUS[0], max_new_tokens=POSITIONS - 1)[0]
    assert _answer(_runner(bart), CORPUS[0], max_new_tokens=1000) == expected


def test_an_input_longer_than_the_encoder_is_refused_with_both_lengths_unless_truncated(folder: Path) -> None:
    runner, oracle, text = _runner(folder), Oracle(folder), " ".join(CORPUS)
    length = len(oracle.tokenizer(text)["input_ids"])
    _invalid(_answer(runner, text), f"{length} tokens", f"context length is {POSITIONS} tokens")
    expected = oracle(text, truncation=True, max_new_tokens=20)[0]
    assert _answer(runner, text, truncation=True) == expected
    assert _answer(_runner(folder, truncation=True), text) == expected


def _led(folder: Path) -> Path:
    tokenizer = byte_level_tokenizer(10**30)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    options = {name: value for name, value in SMALL.items() if name != "max_position_embeddings"}
    config = LEDConfig(
        **options, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0, max_encoder_position_embeddings=POSITIONS, max_decoder_position_embeddings=24,
        attention_window=16,
    )  # fmt: skip
    return save(folder, LEDForConditionalGeneration, config, tokenizer)


def _bert2bert(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer(10**30)
    decoder = bert_config(tokenizer, is_decoder=True, add_cross_attention=True, max_position_embeddings=24)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(bert_config(tokenizer), decoder)
    config.decoder_start_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    config.pad_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncoderDecoderModel(config=config)
    model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    model.generation_config.eos_token_id = tokenizer.sep_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _prophetnet(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer(10**30)
    config = ProphetNetConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_encoder_layers=1, num_decoder_layers=1, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_encoder_attention_heads=2, num_decoder_attention_heads=2,
        max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=2, decoder_start_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return save(folder, ProphetNetForConditionalGeneration, config, tokenizer)


@pytest.mark.parametrize("make", [_led, _bert2bert, _prophetnet])
def test_positions_are_found_in_every_kind_of_config(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    runner, oracle = _runner(folder), Oracle(folder)
    limit = runner.generator.max_length
    assert limit is not None
    text = "a " * (4 * POSITIONS)
    length = len(oracle.tokenizer(text)["input_ids"])
    _invalid(_answer(runner, text), f"{length} tokens", f"context length is {limit} tokens")
    inputs = oracle.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
    with torch.inference_mode():
        (out,) = oracle.model.generate(inputs["input_ids"], max_new_tokens=5)
    assert _answer(runner, text, truncation=True, max_new_tokens=5) == oracle.tokenizer.decode(out, True)
    # The answer is as long as the decoder's positions allow, not as long as requested.
    least = 20
    (answer,) = runner.predict([Item("a", {"max_new_tokens": 10**6, "min_new_tokens": least, "details": True})])
    assert answer[0]["generated_tokens"] >= least


def test_max_model_len_may_exceed_the_tokenizers_limit_without_positions(t5: Path) -> None:
    text = " ".join(CORPUS)
    assert _answer(_runner(t5, max_model_len=1000), text) == Oracle(t5)(text, max_new_tokens=20)[0]


def test_an_input_without_tokens_is_refused(runner_of_t5: Text2TextGenerationRunner) -> None:
    _invalid(_answer(runner_of_t5, ""), "text is empty")


@pytest.mark.filterwarnings("error:Unfeasible length")
def test_the_request_wins_over_the_models_minimal_length(tmp_path: Path, t5: Path) -> None:
    runner = _runner(_t5(tmp_path, min_length=30, max_length=50))
    oracle = Oracle(t5)
    assert _answer(runner, CORPUS[0], max_new_tokens=35) == oracle(CORPUS[0], min_length=30, max_new_tokens=35)[0]
    assert _answer(runner, CORPUS[0], max_new_tokens=6) == oracle(CORPUS[0], min_length=7, max_new_tokens=6)[0]


# Parameters


def test_the_prefix_applies_only_to_its_own_item(t5: Path) -> None:
    runner, oracle = _runner(t5), Oracle(t5)
    answers = runner.predict([Item(CORPUS[0], {"prefix": "summarize: "}), Item(CORPUS[0], {"prefix": None})])
    expected = [oracle(prefix + CORPUS[0], max_new_tokens=20)[0] for prefix in ("summarize: ", "")]
    assert [answer[0]["generated_text"] for answer in answers] == expected
    assert expected[0] != expected[1]


def test_operator_defaults_hold_unless_the_request_overrides_them(t5: Path) -> None:
    runner, oracle = _runner(t5, do_sample=True, temperature=2.0, top_k=5, return_full_text=True), Oracle(t5)
    sampled = _answer(_runner(t5), CORPUS[0], seed=1, do_sample=True, temperature=2.0, top_k=5)
    assert _answer(runner, CORPUS[0], seed=1) == sampled
    assert _answer(runner, CORPUS[0], temperature=0) == oracle(CORPUS[0], max_new_tokens=20)[0]


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string"),
        ([1, 10**6], {}, "[1]: must be a token"),
        ({"text": "a"}, {}, "must be a string"),
        ("a", {"prefx": "b"}, "did you mean 'prefix'"),
        ("a", {"prefix": 1}, "parameters.prefix"),
        ("a", {"return_full_text": True}, "parameters.return_full_text"),
        ("a", {"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ("a", {"src_lang": "en"}, "parameters.src_lang: this model has no language codes"),
        ("a", {"tgt_lang": "fr"}, "parameters.tgt_lang: this model has no language codes"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    runner_of_t5: Text2TextGenerationRunner, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = runner_of_t5.predict([Item(instance, parameters), Item("Paris", {"max_new_tokens": 2})])
    _invalid(wrong, named)
    assert len(right) == 1


def test_a_decoder_only_model_is_refused(tmp_path: Path, t5: Path) -> None:
    for file in t5.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(LoadError, match="text2text-generation"):
        _runner(tmp_path)


# Languages


def _letters() -> list[str]:
    return ["▁", *sorted(set("".join(CORPUS)) - {" "})]


def _nllb(folder: Path) -> Any:
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *_letters()])}
    return NllbTokenizer(vocab=vocab, merges=[], extra_special_tokens=["eng_Latn", "fra_Latn", "deu_Latn"])


def _mbart50(folder: Path) -> Any:
    return MBart50Tokenizer(vocab=[(token, -1.0) for token in ["<unk>", "<s>", "</s>", *_letters()]])


def _save_sentencepiece() -> bytes:
    """Save a model of sentencepiece."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=90, model_type="char", minloglevel=2
    )
    return model.getvalue()


def _m2m100(folder: Path) -> Any:
    model = _save_sentencepiece()
    deltas = sentencepiece.SentencePieceProcessor(model_proto=model)
    (folder / "spm.model").write_bytes(model)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(deltas.id_to_piece(i) for i in range(3, len(deltas)))]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"))


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        (_nllb, ("eng_Latn", "fra_Latn", "deu_Latn")),
        (_mbart50, ("en_XX", "fr_XX", "de_DE")),
        (_m2m100, ("en", "fr", "de")),
    ],
    ids=["NLLB", "mBART-50", "M2M100"],
)
def test_languages_are_those_of_the_item_and_unknown_ones_are_refused(
    tmp_path: Path, make: Callable[[Path], Any], codes: tuple[str, str, str]
) -> None:
    tokenizer = make(tmp_path)
    vocabulary = max(len(tokenizer), *getattr(tokenizer, "lang_code_to_id", {"": 0}).values()) + 1
    config = M2M100Config(**SMALL, vocab_size=vocabulary, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    config.decoder_start_token_id = 2
    folder = save(tmp_path / "model", M2M100ForConditionalGeneration, config, tokenizer)
    runner, oracle = _runner(folder), Oracle(folder)
    own = oracle.tokenizer.src_lang
    english, french, german = codes
    pairs = [(french, german), (None, None), (german, english), (None, french), (english, None)]
    items = [
        Item("Paris", {"max_new_tokens": 8, **({"src_lang": s} if s else {}), **({"tgt_lang": t} if t else {})})
        for s, t in pairs
    ]
    answers = runner.predict(items)
    for (source, target), item, answer in zip(pairs, items, answers, strict=True):
        inputs = oracle.tokenizer._build_translation_inputs(
            "Paris", return_tensors="pt", src_lang=source or own, tgt_lang=target or own
        )
        (row,) = runner.prepare_item(item).rows
        assert row.inputs.input_ids == inputs["input_ids"][0].tolist()
        forced = {"forced_bos_token_id": inputs["forced_bos_token_id"]} if target else {}
        assert row.inputs.forced_bos_token_id == forced.get("forced_bos_token_id")
        assert answer == [{"generated_text": oracle("Paris", max_new_tokens=8, **forced)[0]}]
    for name in ("src_lang", "tgt_lang"):
        _invalid(_answer(runner, "Paris", **{name: "klingon"}), f"parameters.{name}: 'klingon'", "languages")
    runner.warm_up()


def _plbart(folder: Path) -> Any:
    (folder / "sentencepiece.bpe.model").write_bytes(_save_sentencepiece())
    return PLBartTokenizer(str(folder / "sentencepiece.bpe.model"), language_codes="multi")


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (_plbart, {"python": "__python__", "Python": "__python__", "en_XX": "__en_XX__", "en": "__en_XX__",
                   "__java__": "__java__"}),
        (_mbart50, {"en": "en_XX", "en-XX": "en_XX", "de": "de_DE", "FR_xx": "fr_XX"}),
        (_m2m100, {"__en__": "en", "EN": "en"}),
        (_nllb, {"eng": "eng_Latn", "eng-latn": "eng_Latn"}),
    ],
    ids=["PLBart", "mBART-50", "M2M100", "NLLB"],
)  # fmt: skip
def test_a_language_may_be_called_by_its_usual_name(
    tmp_path: Path, make: Callable[[Path], Any], names: dict[str, str]
) -> None:
    tokenizer = make(tmp_path)
    vocabulary = max(len(tokenizer), *getattr(tokenizer, "lang_code_to_id", {"": 0}).values()) + 1
    config = M2M100Config(**SMALL, vocab_size=vocabulary, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    config.decoder_start_token_id = 2
    runner = _runner(save(tmp_path / "model", M2M100ForConditionalGeneration, config, tokenizer))

    def rows(source: str, target: str) -> list[tuple[list[int], int | None]]:
        rows = runner.prepare_item(Item("Paris", {"src_lang": source, "tgt_lang": target})).rows
        return [(row.inputs.input_ids, row.inputs.forced_bos_token_id) for row in rows]

    for name, code in names.items():
        assert rows(name, name) == rows(code, code)
    assert len({str(rows(code, code)) for code in names.values()}) == len(set(names.values()))


def test_an_ambiguous_name_of_a_language_is_refused(tmp_path: Path) -> None:
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *_letters()])}
    tokenizer = NllbTokenizer(vocab=vocab, merges=[], extra_special_tokens=["eng_Latn", "zho_Hans", "zho_Hant"])
    config = M2M100Config(**SMALL, vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    runner = _runner(save(tmp_path, M2M100ForConditionalGeneration, config, tokenizer))
    for name in ("zho", "zh", "", "_", "latn"):
        _invalid(_answer(runner, "Paris", tgt_lang=name), f"parameters.tgt_lang: '{name}'")
