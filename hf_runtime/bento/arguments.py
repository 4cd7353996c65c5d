"""Arguments of `bentoml build` and `bentoml serve`, and the image to build."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import bentoml
from bentoml.images import Image
from pydantic import BaseModel, ConfigDict, field_validator

from hf_runtime.settings import SettingsError
from hf_runtime.settings.errors import validate_settings

#: Folder of the image that its user may write to, also if a volume is mounted there. All else may be read-only.
CACHE = "/cache"

#: Version of uv, which installs the packages of an image; BentoML would use the newest.
UV = "0.13.9"


class Arguments(BaseModel):
    """Arguments given as `--arg name=value`; a Bento stores the ones that it was built with.

    Attributes:
        config: a file of InferenceServices, or a folder of such files, as RUNTIME_CONFIG.
        model: tag of a model in BentoML's store. It becomes a part of the Bento and is served if no other model is
            configured.
        torch: PyTorch build for the image, by uv's names (https://docs.astral.sh/uv/guides/integration/pytorch/);
            `index` is the default build of the package index.
    """

    model_config = ConfigDict(frozen=True)

    config: Path | None = None
    model: str | None = None
    torch: str = "cpu"

    @field_validator("model")
    @classmethod
    def _check_model_tag(cls, tag: str | None) -> str | None:
        # A fixed version, because the newest model may differ where the Bento is served outside its image.
        if tag is not None and (not re.fullmatch(r"[^:/\s]+:[^:/\s]+", tag) or tag.endswith(":latest")):
            raise ValueError("must be a tag with its version, name:version; `bentoml models list` shows them")
        return tag

    @field_validator("torch")
    @classmethod
    def _check_torch_build(cls, build: str) -> str:
        if not re.fullmatch(r"index|cpu|xpu|cu\d+|rocm\d[\d.]*", build):
            raise ValueError("must be cpu, a version of CUDA such as cu130, one of ROCm such as rocm7.0, xpu, or index")
        return build

    @property
    def model_uri(self) -> str | None:
        """Storage URI of the Bento's model; None if it has none."""
        return f"bentoml://{self.model}" if self.model is not None else None


def read_arguments() -> Arguments:
    """Return the arguments of this process.

    Raises:
        SettingsError: an argument is unknown or has a wrong value.
    """
    given = vars(bentoml.use_arguments())
    for name in given:
        if name not in Arguments.model_fields:
            known = ", ".join(Arguments.model_fields)
            raise SettingsError(f"--arg {name}: is not an argument of this service; known are {known}")
    return validate_settings(lambda: Arguments.model_validate(given), lambda _: "--arg ")


def image(torch: str) -> Image:
    """Return the base image for `bentoml containerize`.

    Every package is installed from a wheel, so the compilers that BentoML adds by default are left out. Download caches
    are not kept.

    Args:
        torch: as in `Arguments`.
    """
    settings = ["no-cache = true", *(["[pip]", f'torch-backend = "{torch}"'] if torch != "index" else [])]
    lines = " ".join(shlex.quote(line) for line in settings)
    return (
        Image(base_image="python:3.11-slim", distro="")
        .run(f"pip install --no-cache-dir uv=={UV}")
        .run(f"install -d -o bentoml -g bentoml {CACHE}")
        .run(f"mkdir -p /etc/uv && printf '%s\\n' {lines} > /etc/uv/uv.toml")
    )
