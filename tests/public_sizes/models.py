"""The most downloaded public models, with their own sizes and one layer of each kind.

Sizes are those of https://huggingface.co/<hub id>/resolve/main/config.json, under the same names. Defaults of a config
class are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AlbertConfig,
    BartConfig,
    BertConfig,
    BlenderbotConfig,
    BloomConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EsmConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    MT5Config,
    NomicBertConfig,
    OPTConfig,
    PegasusConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from hf_runtime.settings import Task


@dataclass(frozen=True, slots=True)
class Tokens:
    """Special tokens of a family.

    Attributes:
        ids: ids by role, as tokenizers call them without `_token`; two roles may have one id.
        single, pair: the template around one text, and around two: roles, ids of other tokens, and A and B for texts.
        segments: True if token types distinguish the two texts.
        byte_level: the tokenizer encodes text byte by byte, with the first 256 tokens: transformers loads files of this
            family as its own kind of tokenizer, which has no words.
    """

    ids: Mapping[str, int]
    single: tuple[str | int, ...] = ("A",)
    pair: tuple[str | int, ...] = ("A", "B")
    segments: bool = False
    byte_level: bool = False


@dataclass(frozen=True, slots=True)
class PublicModel:
    """Public model with its sizes.

    Attributes:
        hub_id: its name on the hub, with `@` and a number for a vocabulary that users have resized to it.
        config: the config class of transformers.
        sizes: fields of its config.json that are not the class's defaults.
        layers: number of layers to build, one of each kind.
        parameters: parameters of each request.
        pairs: True if its inputs are pairs of texts.
        long: tokens of the longest input: more than the window of a layer that has a small one.
        quick: modes in which `make test` serves it, `avx2` among them if the machine has more; all others belong to
            `make sweep`.
        packs: True if some of its layers fill whole registers; others are packed only if that is measured to be faster.
    """

    hub_id: str
    task: Task
    config: type[Any]
    tokens: Tokens
    sizes: Mapping[str, Any] = field(default_factory=dict)
    layers: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairs: bool = False
    long: int = 80
    quick: tuple[str, ...] = ()
    packs: bool = True


_FAST: tuple[str, ...] = ("accelerated",)
_ALL = (*_FAST, "plain", "bfloat16", "int8", "avx2")


def _bert(pad: int = 0, segments: bool = True) -> Tokens:
    ids = {"pad": pad, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    return Tokens(ids, ("cls", "A", "sep"), ("cls", "A", "sep", "B", "sep"), segments)


def _roberta(mask: int, unk: int = 3) -> Tokens:
    ids = {"cls": 0, "pad": 1, "sep": 2, "unk": unk, "mask": mask}
    return Tokens(ids, ("cls", "A", "sep"), ("cls", "A", "sep", "sep", "B", "sep"))


def _ends(pad: int, eos: int, unk: int, before: int | None = None) -> Tokens:
    """Return tokens of an encoder-decoder, whose texts end, and may begin with their language."""
    return Tokens({"pad": pad, "eos": eos, "unk": unk}, ("A", "eos") if before is None else (before, "A", "eos"))


def _begins(bos: int, eos: int, **others: int) -> Tokens:
    return Tokens({"bos": bos, "eos": eos, **others}, ("bos", "A"))


_BERT, _DISTILBERT = _bert(), _bert(segments=False)
_ALBERT = Tokens(
    {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}, ("cls", "A", "sep"), ("cls", "A", "sep", "B", "sep"), True
)
_DEBERTA = Tokens(
    {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 128000}, ("cls", "A", "sep"), ("cls", "A", "sep", "B", "sep"), True
)
_MODERNBERT = Tokens(
    {"unk": 50280, "cls": 50281, "sep": 50282, "pad": 50283, "mask": 50284},
    ("cls", "A", "sep"),
    ("cls", "A", "sep", "B", "sep"),
)
_ESM = Tokens({"cls": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 32}, ("cls", "A", "eos"))
_ROBERTA, _XLM_R = _roberta(50264), _roberta(250001)
#: Multilingual models of BERT's kind, with XLM-R's tokens.
_BERT_XLM_R = Tokens(_XLM_R.ids, _XLM_R.single, _XLM_R.pair, True)
_MPNET = _roberta(30526, unk=104)
_GPT2 = Tokens({"eos": 50256})
_GPT_NEOX, _SMOLLM2, _GRANITE = Tokens({"eos": 0}), Tokens({"eos": 0}), Tokens({"eos": 0})
_OPT = Tokens({"eos": 2, "pad": 1, "unk": 3}, ("eos", "A"))
_BLOOM = Tokens({"unk": 0, "bos": 1, "eos": 2, "pad": 3})
_LLAMA, _LLAMA_3 = _begins(1, 2, unk=0), _begins(128000, 128001)
_PHI_3 = _begins(1, 32000, unk=0)
_QWEN_2 = Tokens({"eos": 151643}, byte_level=True)
_QWEN_3 = Tokens({"eos": 151643})
_QWEN_EMBEDDING = Tokens({"eos": 151645, "pad": 151643}, ("A", "pad"))
_GEMMA = _begins(2, 1, pad=0, unk=3)
_T5 = _ends(0, 1, 2)
_BART = Tokens({"bos": 0, "pad": 1, "eos": 2, "unk": 3}, ("bos", "A", "eos"), ("bos", "A", "eos", "eos", "B", "eos"))

_ROBERTA_BASE: dict[str, Any] = {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
}  # fmt: skip
_XLM_R_BASE = {**_ROBERTA_BASE, "vocab_size": 250002}
_LARGE: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
_SMALL: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_DEBERTA_BASE: dict[str, Any] = {
    "vocab_size": 128100, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "pooler_hidden_size": 768,
}  # fmt: skip
_MEAN: dict[str, Any] = {"pooling": "mean", "normalize": True}
_CLS: dict[str, Any] = {"pooling": "cls", "normalize": True}

_TINYLLAMA: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32,
    "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
}  # fmt: skip
_QWEN2_05B: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "bos_token_id": 151643, "eos_token_id": 151643,
}  # fmt: skip
_QWEN3_06B: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1e6,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "bos_token_id": 151643, "eos_token_id": 151645,
}  # fmt: skip
_GEMMA_2: dict[str, Any] = {
    # The class's defaults are the model's own values.
    "layer_types": ["sliding_attention", "full_attention"],
}
_GEMMA_3: dict[str, Any] = {
    "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512, "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
_PYTHIA: dict[str, Any] = {"vocab_size": 50304, "rotary_pct": 0.25, "max_position_embeddings": 2048, "eos_token_id": 0,
                           "bos_token_id": 0}  # fmt: skip
_T5_SMALL: dict[str, Any] = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8,
                             "decoder_start_token_id": 0}  # fmt: skip
_FLAN_T5: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False, "decoder_start_token_id": 0,
}  # fmt: skip
_BART_BASE: dict[str, Any] = {
    "vocab_size": 50265, "d_model": 768, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "max_position_embeddings": 1024,
}  # fmt: skip
_MARIAN: dict[str, Any] = {
    "vocab_size": 58101, "d_model": 512, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "max_position_embeddings": 512, "activation_function": "swish",
    "scale_embedding": True, "pad_token_id": 58100, "decoder_start_token_id": 58100, "eos_token_id": 0,
}  # fmt: skip


def _marian(vocabulary: int) -> dict[str, Any]:
    pad = vocabulary - 1
    ends = {"pad_token_id": pad, "decoder_start_token_id": pad}
    return {**_MARIAN, "vocab_size": vocabulary, "decoder_vocab_size": vocabulary, **ends}


MODELS = (
    # Fill-mask
    PublicModel("google-bert/bert-base-uncased", "fill-mask", BertConfig, _BERT, quick=_ALL),
    PublicModel("google-bert/bert-base-cased", "fill-mask", BertConfig, _BERT, {"vocab_size": 28996}),
    PublicModel("google-bert/bert-base-chinese", "fill-mask", BertConfig, _BERT, {"vocab_size": 21128}),
    PublicModel("google-bert/bert-base-multilingual-cased", "fill-mask", BertConfig, _BERT, {"vocab_size": 119547}),
    PublicModel("FacebookAI/roberta-base", "fill-mask", RobertaConfig, _ROBERTA, _ROBERTA_BASE),
    PublicModel("FacebookAI/xlm-roberta-base", "fill-mask", XLMRobertaConfig, _XLM_R, _XLM_R_BASE),
    PublicModel("distilbert/distilbert-base-uncased", "fill-mask", DistilBertConfig, _DISTILBERT, quick=_FAST),
    PublicModel(
        "almanach/camembert-base", "fill-mask", CamembertConfig, _roberta(32004), {**_ROBERTA_BASE, "vocab_size": 32005}
    ),
    PublicModel(
        "albert/albert-base-v2", "fill-mask", AlbertConfig, _ALBERT,
        {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}, quick=_FAST,
    ),
    PublicModel(
        "google/electra-small-generator", "fill-mask", ElectraConfig, _BERT, quick=_FAST,
    ),
    PublicModel("answerdotai/ModernBERT-base", "fill-mask", ModernBertConfig, _MODERNBERT,
                {"layer_types": ["full_attention", "sliding_attention"]}, layers=2, long=150, quick=_FAST),
    PublicModel(
        "facebook/esm2_t12_35M_UR50D", "fill-mask", EsmConfig, _ESM,
        {"vocab_size": 33, "hidden_size": 480, "num_attention_heads": 20, "intermediate_size": 1920,
         "max_position_embeddings": 1026, "layer_norm_eps": 1e-5, "position_embedding_type": "rotary",
         "token_dropout": True, "emb_layer_norm_before": False, "pad_token_id": 1, "mask_token_id": 32}, quick=_FAST,
    ),
    # Text classification
    PublicModel(
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "text-classification", DistilBertConfig,
        _DISTILBERT, {"num_labels": 2}, quick=_FAST,
    ),
    PublicModel(
        "cardiffnlp/twitter-roberta-base-sentiment-latest", "text-classification", RobertaConfig, _ROBERTA,
        {**_ROBERTA_BASE, "num_labels": 3},
    ),
    PublicModel("ProsusAI/finbert", "text-classification", BertConfig, _BERT, {"num_labels": 3}),
    PublicModel(
        "SamLowe/roberta-base-go_emotions", "text-classification", RobertaConfig, _ROBERTA,
        {**_ROBERTA_BASE, "num_labels": 28, "problem_type": "multi_label_classification"},
    ),
    PublicModel(
        "papluca/xlm-roberta-base-language-detection", "text-classification", XLMRobertaConfig, _XLM_R,
        {**_XLM_R_BASE, "num_labels": 20},
    ),
    PublicModel(
        "nlptown/bert-base-multilingual-uncased-sentiment", "text-classification", BertConfig, _BERT,
        {"vocab_size": 105879, "num_labels": 5},
    ),
    PublicModel(
        "cross-encoder/ms-marco-MiniLM-L6-v2", "text-classification", BertConfig, _BERT, {**_SMALL, "num_labels": 1},
        pairs=True, quick=_ALL,
    ),
    PublicModel(
        "BAAI/bge-reranker-v2-m3", "text-classification", XLMRobertaConfig, _XLM_R,
        {**_XLM_R_BASE, **_LARGE, "max_position_embeddings": 8194, "num_labels": 1}, pairs=True,
    ),
    PublicModel(
        "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli", "text-classification", DebertaV2Config, _DEBERTA,
        {**_DEBERTA_BASE, "num_labels": 3}, pairs=True, quick=_FAST,
    ),
    PublicModel(
        "facebook/bart-large-mnli", "text-classification", BartConfig, _BART, {"num_labels": 3}, pairs=True,
    ),
    # Token classification
    PublicModel(
        "dslim/bert-base-NER", "token-classification", BertConfig, _BERT, {"vocab_size": 28996, "num_labels": 9},
        quick=_FAST,
    ),
    PublicModel(
        "dbmdz/bert-large-cased-finetuned-conll03-english", "token-classification", BertConfig, _BERT,
        {**_LARGE, "vocab_size": 28996, "num_labels": 9},
    ),
    PublicModel(
        "bhadresh-savani/electra-base-discriminator-finetuned-conll03-english", "token-classification", ElectraConfig,
        _BERT,
        {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072,
         "num_labels": 9},
    ),
    PublicModel(
        "Jean-Baptiste/camembert-ner", "token-classification", CamembertConfig, _roberta(32004),
        {**_ROBERTA_BASE, "vocab_size": 32005, "num_labels": 5},
    ),
    # Question answering
    PublicModel(
        "deepset/roberta-base-squad2", "question-answering", RobertaConfig, _ROBERTA, _ROBERTA_BASE, quick=_FAST,
    ),
    PublicModel(
        "distilbert/distilbert-base-cased-distilled-squad", "question-answering", DistilBertConfig, _DISTILBERT,
        {"vocab_size": 28996},
    ),
    # Feature extraction
    PublicModel(
        "sentence-transformers/all-MiniLM-L6-v2", "feature-extraction", BertConfig, _BERT, _SMALL, parameters=_MEAN,
        quick=_FAST,
    ),
    PublicModel(
        "sentence-transformers/all-mpnet-base-v2", "feature-extraction", MPNetConfig, _MPNET,
        {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}, parameters=_MEAN, quick=_FAST,
    ),
    PublicModel(
        "BAAI/bge-small-en-v1.5", "feature-extraction", BertConfig, _BERT, _SMALL, parameters=_CLS,
    ),
    PublicModel("BAAI/bge-base-en-v1.5", "feature-extraction", BertConfig, _BERT, parameters=_CLS),
    PublicModel("BAAI/bge-large-en-v1.5", "feature-extraction", BertConfig, _BERT, _LARGE, parameters=_CLS),
    PublicModel(
        "BAAI/bge-m3", "feature-extraction", XLMRobertaConfig, _XLM_R,
        {**_XLM_R_BASE, **_LARGE, "max_position_embeddings": 8194}, parameters=_CLS,
    ),
    PublicModel("intfloat/e5-base-v2", "feature-extraction", BertConfig, _BERT, parameters=_MEAN),
    PublicModel(
        "intfloat/multilingual-e5-small", "feature-extraction", BertConfig, _BERT_XLM_R,
        {**_SMALL, "vocab_size": 250037}, parameters=_MEAN,
    ),
    PublicModel(
        "intfloat/multilingual-e5-base", "feature-extraction", XLMRobertaConfig, _XLM_R, _XLM_R_BASE, parameters=_MEAN,
    ),
    PublicModel(
        "cointegrated/rubert-tiny2", "feature-extraction", BertConfig, _ALBERT,
        {"vocab_size": 83828, "hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 600,
         "max_position_embeddings": 2048}, parameters=_CLS, quick=_FAST, packs=False,
    ),
    PublicModel("thenlper/gte-base", "feature-extraction", BertConfig, _BERT, parameters=_MEAN),
    PublicModel(
        "nomic-ai/nomic-embed-text-v1.5", "feature-extraction", NomicBertConfig, _BERT, parameters=_MEAN, quick=_FAST,
    ),
    PublicModel(
        "Qwen/Qwen3-Embedding-0.6B", "feature-extraction", Qwen3Config, _QWEN_EMBEDDING,
        {**_QWEN3_06B, "vocab_size": 151669, "max_position_embeddings": 32768, "eos_token_id": 151643},
        parameters={"pooling": "last_token", "normalize": True},
    ),
    # Text generation
    PublicModel(
        "openai-community/gpt2", "text-generation", GPT2Config, _GPT2, quick=("accelerated", "plain", "int8", "avx2"),
    ),
    PublicModel("distilbert/distilgpt2", "text-generation", GPT2Config, _GPT2),
    PublicModel(
        "facebook/opt-125m", "text-generation", OPTConfig, _OPT,
        {"vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072, "num_attention_heads": 12,
         "max_position_embeddings": 2048, "word_embed_proj_dim": 768},
    ),
    PublicModel(
        "facebook/opt-350m", "text-generation", OPTConfig, _OPT,
        {"vocab_size": 50272, "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16,
         "max_position_embeddings": 2048, "word_embed_proj_dim": 512, "do_layer_norm_before": False},
    ),
    PublicModel(
        "EleutherAI/pythia-70m", "text-generation", GPTNeoXConfig, _GPT_NEOX,
        {**_PYTHIA, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}, quick=_FAST,
    ),
    PublicModel(
        "EleutherAI/pythia-160m", "text-generation", GPTNeoXConfig, _GPT_NEOX,
        {**_PYTHIA, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    PublicModel(
        "bigscience/bloom-560m", "text-generation", BloomConfig, _BLOOM,
        {"vocab_size": 250880, "hidden_size": 1024, "n_head": 16, "pad_token_id": 3},
    ),
    PublicModel(
        "EleutherAI/gpt-neo-125m", "text-generation", GPTNeoConfig, _GPT2,
        {"hidden_size": 768, "num_heads": 12, "attention_types": [[["global", "local"], 1]], "window_size": 256},
        layers=2, long=300,
    ),
    PublicModel("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "text-generation", LlamaConfig, _LLAMA, _TINYLLAMA),
    PublicModel(
        "TinyLlama/TinyLlama-1.1B-Chat-v0.3", "text-generation", LlamaConfig, _LLAMA,
        {**_TINYLLAMA, "vocab_size": 32003}, quick=_FAST,
    ),
    PublicModel(
        "HuggingFaceTB/SmolLM2-135M", "text-generation", LlamaConfig, _SMOLLM2,
        {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
         "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
         "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}, quick=_FAST,
    ),
    PublicModel(
        "meta-llama/Llama-3.2-1B", "text-generation", LlamaConfig, _LLAMA_3,
        {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
         "rope_theta": 500000.0, "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128001,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    ),
    PublicModel(
        "h2oai/h2o-danube3-500m-chat", "text-generation", LlamaConfig, _LLAMA,
        {"vocab_size": 32000, "hidden_size": 1536, "intermediate_size": 4096, "num_attention_heads": 16,
         "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0},
    ),
    PublicModel("Qwen/Qwen2.5-0.5B", "text-generation", Qwen2Config, _QWEN_2, _QWEN2_05B),
    PublicModel(
        "Qwen/Qwen2.5-0.5B@151665", "text-generation", Qwen2Config, _QWEN_2, {**_QWEN2_05B, "vocab_size": 151665},
    ),
    PublicModel("Qwen/Qwen3-0.6B", "text-generation", Qwen3Config, _QWEN_3, _QWEN3_06B),
    PublicModel(
        "Qwen/Qwen3-0.6B@151669", "text-generation", Qwen3Config, _QWEN_3, {**_QWEN3_06B, "vocab_size": 151669},
        quick=_FAST,
    ),
    PublicModel("google/gemma-2-2b", "text-generation", Gemma2Config, _GEMMA, _GEMMA_2, layers=2),
    PublicModel(
        "google/gemma-2-2b@100001", "text-generation", Gemma2Config, _GEMMA, {**_GEMMA_2, "vocab_size": 100001},
        layers=2,
    ),
    PublicModel("google/gemma-3-270m", "text-generation", Gemma3TextConfig, _GEMMA, _GEMMA_3, layers=2, long=600),
    PublicModel(
        "google/gemma-3-270m@100001", "text-generation", Gemma3TextConfig, _GEMMA, {**_GEMMA_3, "vocab_size": 100001},
        layers=2, quick=_FAST,
    ),
    PublicModel(
        "microsoft/phi-2", "text-generation", PhiConfig, _GPT2,
        {"vocab_size": 51200, "hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32,
         "num_key_value_heads": 32, "partial_rotary_factor": 0.4, "bos_token_id": 50256, "eos_token_id": 50256},
    ),
    PublicModel("microsoft/Phi-3-mini-4k-instruct", "text-generation", Phi3Config, _PHI_3, {"sliding_window": 2047}),
    PublicModel(
        "ibm-granite/granite-3.1-2b-base", "text-generation", GraniteConfig, _GRANITE,
        {"vocab_size": 49155, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
         "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 5e6,
         "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "attention_multiplier": 0.015625,
         "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22},
    ),
    PublicModel(
        "mistralai/Mistral-7B-v0.1", "text-generation", MistralConfig, _LLAMA,
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
         "num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": 4096, "rms_norm_eps": 1e-5},
    ),
    # Text to text
    PublicModel("google-t5/t5-small", "text2text-generation", T5Config, _T5, _T5_SMALL),
    PublicModel(
        "google-t5/t5-small@32100", "text2text-generation", T5Config, _T5, {**_T5_SMALL, "vocab_size": 32100},
        quick=_ALL,
    ),
    PublicModel("google/flan-t5-base", "text2text-generation", T5Config, _T5, _FLAN_T5),
    PublicModel("google/mt5-small", "text2text-generation", MT5Config, _T5, {"tie_word_embeddings": False}),
    PublicModel("facebook/bart-base", "text2text-generation", BartConfig, _BART, _BART_BASE, quick=_FAST),
    PublicModel("facebook/bart-large-cnn", "text2text-generation", BartConfig, _BART, {"vocab_size": 50264}),
    PublicModel(
        "Helsinki-NLP/opus-mt-en-de", "text2text-generation", MarianConfig, _ends(58100, 0, 1), _marian(58101),
        quick=_FAST,
    ),
    PublicModel(
        "Helsinki-NLP/opus-mt-en-fr", "text2text-generation", MarianConfig, _ends(59513, 0, 1), _marian(59514),
    ),
    PublicModel(
        "facebook/mbart-large-50-many-to-many-mmt", "text2text-generation", MBartConfig,
        _ends(1, 2, 3, before=250004),
        {"vocab_size": 250054, "activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 2},
    ),
    PublicModel(
        "facebook/m2m100_418M", "text2text-generation", M2M100Config, _ends(1, 2, 3, before=128022),
    ),
    PublicModel(
        "facebook/nllb-200-distilled-600M", "text2text-generation", M2M100Config, _ends(1, 2, 3, before=256047),
        {"vocab_size": 256206},
    ),
    PublicModel(
        "google/pegasus-xsum", "text2text-generation", PegasusConfig, _ends(0, 1, 105),
        {"vocab_size": 96103, "activation_function": "relu", "scale_embedding": True, "max_position_embeddings": 512},
    ),
    PublicModel(
        "facebook/blenderbot-400M-distill", "text2text-generation", BlenderbotConfig, _ends(0, 2, 3),
        {"vocab_size": 8008, "d_model": 1280, "encoder_attention_heads": 32, "decoder_attention_heads": 32,
         "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "scale_embedding": True, "max_position_embeddings": 128,
         "decoder_start_token_id": 1, "pad_token_id": 0},
    ),
)  # fmt: skip
