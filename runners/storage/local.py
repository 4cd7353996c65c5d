"""Find models on this machine: by a path, or by a path on a mounted volume."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings


def find_path(settings: ModelSettings) -> Path:
    """Return the path of a STORAGE_URI that is a plain path or a `file://` URI.

    Raises:
        LoadError: the path does not exist.
    """
    uri = settings.storage_uri
    path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri).expanduser()
    if not path.exists():
        raise LoadError(
            f"STORAGE_URI: {path} does not exist; give a model folder, or hf://owner/model for a model of the hub."
        )
    return path.resolve()


def find_on_volume(settings: ModelSettings) -> Path:
    """Return the path of `pvc://claim/path` on the mounted volume.

    KServe's own containers mount the claim at PVC_DIR itself, other containers at PVC_DIR/claim.

    Raises:
        LoadError: neither path exists, or it leads out of the volume.
    """
    claim, _, rest = settings.storage_uri.removeprefix("pvc://").partition("/")
    inner = PurePosixPath(rest.strip("/"))
    if not claim or ".." in (claim, *inner.parts):
        raise LoadError(f"STORAGE_URI: {settings.shown_uri} is not of the form pvc://claim/path.")
    candidates = [settings.pvc_dir / claim / inner, settings.pvc_dir / inner]
    # Without a path, PVC_DIR itself would be a folder of claims.
    for candidate in candidates if rest.strip("/") or not (settings.pvc_dir / claim).exists() else candidates[:1]:
        if candidate.exists():
            if not candidate.resolve().is_relative_to(settings.pvc_dir.resolve()):
                raise LoadError(f"STORAGE_URI: {candidate} leads out of {settings.pvc_dir}; give a path on the volume.")
            return candidate.resolve()
    raise LoadError(
        f"STORAGE_URI: neither {candidates[0]} nor {candidates[1]} exists: mount the claim {claim} at one of them, "
        "or set PVC_DIR."
    )
