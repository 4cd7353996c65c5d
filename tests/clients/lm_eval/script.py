"""Use the LM Evaluation Harness's model class `local-completions`, without its data sets.

It is what `lm_eval --model local-completions --model_args model=…,base_url=…,tokenizer=…` makes, as in
https://github.com/EleutherAI/lm-evaluation-harness#model-apis-and-inference-servers.
"""

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model


def _connect(url: str, model: str, tokenizer: str, **options: Any) -> Any:
    return get_model("local-completions")(
        model=model, base_url=f"{url}/completions", tokenizer=tokenizer, tokenizer_backend="huggingface", **options
    )


def _make_requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, tuple(given), number) for number, given in enumerate(arguments)]


def loglikelihood(url: str, model: str, tokenizer: str, pairs: list[Any], batch_size: int) -> Any:
    lm = _connect(url, model, tokenizer, batch_size=batch_size)
    return lm.loglikelihood(_make_requests("loglikelihood", pairs), disable_tqdm=True)


def loglikelihood_concurrent(url: str, model: str, tokenizer: str, pairs: list[Any]) -> Any:
    lm = _connect(url, model, tokenizer, num_concurrent=4)
    return lm.loglikelihood(_make_requests("loglikelihood", pairs), disable_tqdm=True)


def loglikelihood_of_strings(url: str, model: str, tokenizer: str, pairs: list[Any]) -> Any:
    lm = _connect(url, model, tokenizer, tokenized_requests=False)
    return lm.loglikelihood(_make_requests("loglikelihood", pairs), disable_tqdm=True)


def rolling(url: str, model: str, tokenizer: str, texts: list[str]) -> Any:
    lm = _connect(url, model, tokenizer)
    return lm.loglikelihood_rolling(
        _make_requests("loglikelihood_rolling", [[text] for text in texts]), disable_tqdm=True
    )


def generation(url: str, model: str, tokenizer: str, prompts: list[str]) -> Any:
    lm = _connect(url, model, tokenizer)
    arguments = [[prompt, {"until": ["\n\n"], "max_gen_toks": 12}] for prompt in prompts]
    return lm.generate_until(_make_requests("generate_until", arguments), disable_tqdm=True)


def chat(url: str, model: str, question: str) -> Any:
    lm = get_model("local-chat-completions")(model=model, base_url=f"{url}/chat/completions", eos_string="<|im_end|>")
    prompt = lm.apply_chat_template([{"role": "user", "content": question}])
    requests = _make_requests("generate_until", [[prompt, {"until": ["\n\n"], "max_gen_toks": 24}]])
    return lm.generate_until(requests, disable_tqdm=True)
