"""Run a GuideLLM benchmark, as in https://github.com/vllm-project/guidellm#run-a-benchmark."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def benchmark(url: str, model: str, tokenizer: str, request_format: str) -> Any:
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            *(Path(sys.executable).with_name("guidellm"), "run"),
            *("--backend", f"kind=openai_http,target={url},model={model},request_format={request_format}"),
            *("--profile", "kind=concurrent,streams=[2]"),
            *("--constraint", "kind=max_requests,count=6"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
            *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8"),
            *("--output", f"kind=json,path={report}"),
            "--disable-console-interactive",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        (measured,) = json.loads(report.read_text())["benchmarks"]
    return {
        "totals": measured["metrics"]["request_totals"],
        "output_tokens": [request["output_tokens"] for request in measured["requests"]["successful"]],
        "time_to_first_token_ms": [request["time_to_first_token_ms"] for request in measured["requests"]["successful"]],
        "errors": [request["info"]["error"] for request in measured["requests"]["errored"]],
    }
