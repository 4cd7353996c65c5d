"""Copy the model of STORAGE_URI into BentoML's model store, to build a Bento with it.

    STORAGE_URI=hf://owner/name python -m commands.import_model [NAME]

It prints the tag for `bentoml build --arg model=TAG`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import bentoml

from hf_runtime.contract.errors import LoadError
from hf_runtime.settings import ModelSettings, SettingsError, load_settings
from runners.storage.fetch import fetch, list_files


def main(arguments: list[str] | None = None) -> int:
    """Import the model and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="name in the store; the last part of STORAGE_URI if not given")
    options = parser.parse_args(arguments)
    try:
        models = load_settings().models
        if len(models) != 1:
            raise SettingsError("STORAGE_URI is not set, or RUNTIME_CONFIG names several models; one is imported.")
        print(import_model(models[0], options.name))
    except (LoadError, SettingsError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def import_model(settings: ModelSettings, name: str | None = None) -> bentoml.Tag:
    """Copy the files that are needed to serve a model into the store.

    Args:
        name: name in the store, which `stored_name` normalizes; the last part of the model's URI if None.

    Returns:
        The tag with its new version.

    Raises:
        LoadError: the model cannot be fetched.
    """
    checkpoint = fetch(settings)
    found = checkpoint.folder / (checkpoint.gguf_file or "")
    files = list_files(settings.model_copy(update={"storage_uri": str(found)}))
    with bentoml.models.create(stored_name(name or settings.shown_uri)) as model:
        for file in files:
            target = Path(model.path) / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / file.path, target)
    return model.tag


def stored_name(uri: str) -> str:
    """Return the last part of a URI, with only the characters that a model tag may contain."""
    last = uri.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last)[:63].strip("._-") or "model"


if __name__ == "__main__":
    sys.exit(main())
