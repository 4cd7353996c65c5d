"""Promise: the runtime documentation's health checks and request work unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.e2e.server import Server

pytestmark = pytest.mark.xdist_group("plain")

STATUS = "curl https://$SERVICE_HOSTNAME/v1/models/model"

INFERENCE = """
curl -X POST https://$SERVICE_HOSTNAME/v1/models/model:predict \\
  -H "Content-Type: application/json" \\
  -d '{"instances": ["Hello world"]}'
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_curl_commands(plain_server: Server) -> None:
    def run(command: str) -> object:
        # TLS ends at the cluster's gateway; the rest of the command stays unchanged.
        script = command.replace("https://$SERVICE_HOSTNAME", plain_server.url)
        return json.loads(subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout)

    status = run(STATUS)
    assert isinstance(status, dict)
    assert (status["name"], status["ready"]) == ("model", True)
    answer = run(INFERENCE)
    assert isinstance(answer, dict)
    ((prediction,),) = answer["predictions"]
    assert prediction["label"] in ("POSITIVE", "NEGATIVE")
