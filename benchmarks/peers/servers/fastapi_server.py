"""A transformers pipeline behind FastAPI.

python fastapi_server.py WORKLOAD MODEL PORT THREADS
"""

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI  # type: ignore[import-not-found]
from pydantic import BaseModel
from transformers import pipeline

_TASKS: dict[str, Any] = {
    "classification": "text-classification",
    "embedding": "feature-extraction",
    "generation": "text-generation",
}


class Request(BaseModel):
    """One text, and the number of tokens to generate after it."""

    text: str
    new_tokens: int = 32


def main() -> None:
    """Serve until stopped."""
    workload, model, port, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    pipe: Any = pipeline(_TASKS[workload], model=model, dtype=torch.float32, device="cpu")
    if workload == "generation":
        pipe.model.generation_config.eos_token_id = None  # answers have exactly the requested length
    app = FastAPI()

    @app.get("/health")  # type: ignore[untyped-decorator]
    def health() -> dict[str, str]:
        return {"status": "ok"}

    # Not `async`: FastAPI calls it in a pool of threads, and the server answers other requests meanwhile.
    @app.post("/predict")  # type: ignore[untyped-decorator]
    def predict(request: Request) -> dict[str, Any]:
        if workload == "classification":
            result: dict[str, Any] = pipe(request.text)[0]
            return result
        if workload == "embedding":
            mean = pipe(request.text, return_tensors=True)[0].mean(dim=0)
            return {"embedding": torch.nn.functional.normalize(mean, dim=0).tolist()}
        output = pipe(request.text, do_sample=False, return_full_text=False, max_new_tokens=request.new_tokens)
        return {"text": output[0]["generated_text"]}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
