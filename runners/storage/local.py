"""Models that are on this machine already: a path, or a path on a mounted volume."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings


def find_path(settings: ModelSettings) -> Path:
    """The path of a plain STORAGE_URI or a `file://` one.

    Raises:
        LoadError: it does not exist.
    """
    uri = settings.storage_uri
    path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri).expanduser()
    if not path.exists():
        raise LoadError(
            f"STORAGE_URI: {path} does not exist; give a model folder, or hf://owner/model for a model of the hub."
        )
    return path.resolve()


def find_on_volume(settings: ModelSettings) -> Path:
    """The path of `pvc://claim/path`; KServe's own containers mount the claim as PVC_DIR itself, others in a folder.

    Raises:
        LoadError: it is neither here nor there, or leads out of the volume.
    """
    claim, _, rest = settings.storage_uri.removeprefix("pvc://").partition("/")
    inner = PurePosixPath(rest.strip("/"))
    if not claim or ".." in (claim, *inner.parts):
        raise LoadError(f"STORAGE_URI: {settings.shown_uri} is not of the form pvc://claim/path.")
    places = [settings.pvc_dir / claim / inner, settings.pvc_dir / inner]
    # Without a path, the second place would be a folder of claims.
    for place in places if rest.strip("/") or not (settings.pvc_dir / claim).exists() else places[:1]:
        if place.exists():
            if not place.resolve().is_relative_to(settings.pvc_dir.resolve()):
                raise LoadError(f"STORAGE_URI: {place} leads out of {settings.pvc_dir}; give a path on the volume.")
            return place.resolve()
    raise LoadError(
        f"STORAGE_URI: neither {places[0]} nor {places[1]} exists: mount the claim {claim} at one of them, or set "
        "PVC_DIR."
    )
