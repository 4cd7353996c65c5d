"""A transformers model behind LitServe, in batches.

python litserve_server.py WORKLOAD MODEL PORT THREADS BATCH BATCH_MS
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

_CLASSES = {
    "classification": AutoModelForSequenceClassification,
    "embedding": AutoModel,
    "generation": AutoModelForCausalLM,
}


class API(litserve.LitAPI):  # type: ignore[misc]
    """API from texts to labels, vectors or texts."""

    def __init__(self, workload: str, model: str, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._workload, self._folder, self._threads = workload, model, threads

    def setup(self, device: str) -> None:
        """Load the model in the process that computes."""
        torch.set_num_threads(self._threads)
        # A generative model needs prompts that are aligned at their ends.
        side = "left" if self._workload == "generation" else "right"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self._folder, padding_side=side)
        self._model: Any = _CLASSES[self._workload].from_pretrained(self._folder, dtype=torch.float32).to(device).eval()
        if self._workload == "generation":
            self._model.generation_config.eos_token_id = None  # answers have exactly the requested length

    def decode_request(self, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the request unchanged."""
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the texts unchanged; the tokenizer pads them."""
        return inputs

    def predict(self, x: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """Compute the answers to a batch."""
        encoded = self._tokenizer([request["text"] for request in x], padding=True, return_tensors="pt")
        with torch.inference_mode():
            return list(getattr(self, f"_{self._workload}")(x, encoded))

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Split the answers, one for each request."""
        return output

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the answer unchanged."""
        return output

    def _classification(self, requests: list[dict[str, Any]], encoded: Any) -> list[dict[str, Any]]:
        scores, indexes = self._model(**encoded).logits.softmax(dim=-1).max(dim=-1)
        labels = self._model.config.id2label
        pairs = zip(indexes.tolist(), scores.tolist(), strict=True)
        return [{"label": labels[index], "score": score} for index, score in pairs]

    def _embedding(self, requests: list[dict[str, Any]], encoded: Any) -> list[dict[str, Any]]:
        mask = encoded["attention_mask"].unsqueeze(-1)
        sums = (self._model(**encoded).last_hidden_state * mask).sum(dim=1)
        vectors = torch.nn.functional.normalize(sums / mask.sum(dim=1), dim=1)
        return [{"embedding": numbers} for numbers in vectors.tolist()]

    def _generation(self, requests: list[dict[str, Any]], encoded: Any) -> list[dict[str, Any]]:
        wanted = [int(request["new_tokens"]) for request in requests]
        output = self._model.generate(**encoded, do_sample=False, max_new_tokens=max(wanted))
        start = encoded["input_ids"].shape[1]
        tokens = [row[:new] for row, new in zip(output[:, start:], wanted, strict=True)]
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [{"text": text, "tokens": len(row)} for text, row in zip(texts, tokens, strict=True)]


def main() -> None:
    """Serve until stopped."""
    workload, model, port, threads, batch, milliseconds = sys.argv[1:]
    api = API(workload, model, int(threads), max_batch_size=int(batch), batch_timeout=int(milliseconds) / 1000)
    # One process computes on all threads, and one serves HTTP; the queue between them is the fast one.
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True, timeout=False)
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
