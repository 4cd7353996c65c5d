"""From the environment, and the documents that it names, to settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from hf_runtime.settings.errors import SettingsError, checked, dotted, explained
from hf_runtime.settings.inference_service import InferenceService, Resources
from hf_runtime.settings.kserve_arguments import ArgumentError, is_default_folder, parse_arguments
from hf_runtime.settings.model import ModelSettings
from hf_runtime.settings.references import References
from hf_runtime.settings.server import ServerSettings
from hf_runtime.settings.yaml_documents import Document, read_documents

#: Variables that object stores and private web servers are reached with, by their usual names and KServe's.
_STORAGE = re.compile(r"(AWS|S3|GOOGLE|GCS|AZURE|AZ)_\w+|STORAGE_EMULATOR_HOST|awsAnonymousCredential|.+-headers")
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")

_Location = tuple[str | int, ...]


class Settings(BaseModel):
    """Everything that was configured.

    Attributes:
        models: none if nothing names one.
        notes: what the operator should know, such as fields without effect; a sentence each.
    """

    model_config = ConfigDict(frozen=True)

    server: ServerSettings
    models: tuple[ModelSettings, ...]
    notes: tuple[str, ...] = ()


def load_settings(config: Path | None = None, default_uri: str | None = None) -> Settings:
    """Read the environment, and the InferenceServices of `config` or RUNTIME_CONFIG: a file, or a folder of files.

    Args:
        default_uri: of the model that is served if neither names one.

    Raises:
        SettingsError: a value is wrong; the message names the variable, or file, line and field, in one line.
    """
    server = checked(ServerSettings)
    path = config or server.runtime_config
    if path is not None:
        return _of_documents(path, server)
    try:
        models = (ModelSettings(storage_options=_storage_options(os.environ)),)
    except ValidationError as error:
        if [(e["type"], e["loc"]) for e in error.errors()] == [("missing", ("STORAGE_URI",))]:
            return _of_default(default_uri, server)
        raise explained(error) from None
    return Settings(server=server, models=models, notes=tuple(server.notes()))


def _of_default(uri: str | None, server: ServerSettings) -> Settings:
    if uri is None:
        return Settings(server=server, models=())
    model = checked(lambda: ModelSettings(storage_uri=uri, storage_options=_storage_options(os.environ)))
    return Settings(server=server, models=(model,), notes=tuple(server.notes()))


def _of_documents(path: Path, server: ServerSettings) -> Settings:
    documents = read_documents(path)
    references = References(server.secrets_dir, os.environ, documents)
    services = [_Service(document, references) for document in documents if _kind(document) == "InferenceService"]
    if not services:
        raise SettingsError(f"{path} holds no InferenceService")
    notes = [
        f"{document.place(('kind',))}a document of the kind {_kind(document)} is not used"
        for document in documents
        if _kind(document) not in ("InferenceService", "Secret", "ConfigMap")
    ]
    models = tuple(service.model for service in services)
    names = [model.name for model in models]
    for number, service in enumerate(services):
        if service.model.name in names[:number]:
            raise SettingsError(f"{service.place('MODEL_NAME')}a model named {service.model.name} stands here twice")
        notes += service.notes()
    server = _server_of(services, server)
    return Settings(server=server, models=models, notes=(*notes, *server.notes()))


def _kind(document: Document) -> Any:
    """A document without a kind is taken for an InferenceService, and told what it lacks."""
    content = document.content
    return content.get("kind", "InferenceService") if isinstance(content, dict) else "InferenceService"


class _Service:
    """One InferenceService on its way to the settings of a model."""

    def __init__(self, document: Document, references: References) -> None:
        self._document = document
        self.service = checked(lambda: InferenceService.model_validate(document.content), document.place)
        predictor = self.service.spec.predictor
        self._base: _Location = ("spec", "predictor", "huggingface" if predictor.huggingface else "model")
        #: Where in the document each variable is said.
        self._origin: dict[str, _Location] = {}
        self.variables: dict[str, str] = {}
        self._secrets: set[str] = set()
        self._read_env(references)
        self._read_arguments()
        self._say("MODEL_NAME", self.service.metadata.name, ("metadata", "name"), if_unsaid=True)
        if predictor.min_replicas > 1:
            self._say("REPLICAS", str(predictor.min_replicas), ("spec", "predictor", "minReplicas"), if_unsaid=True)
        for variable, value in _resources(predictor.container.resources):
            self._say(variable, value, (*self._base, "resources"), if_unsaid=True)
        if "STORAGE_URI" not in self.variables:
            raise SettingsError(f"{document.place(self._base)}{dotted(self._base)}.storageUri: is missing")
        self.model = self._model()

    def place(self, variable: str) -> str:
        """File and line of a variable."""
        return self._document.place(self._origin.get(variable, self._base))

    def notes(self) -> Iterator[str]:
        """What was said and has no effect, and what looks like a slip of the pen."""
        for location in self.service.without_effect():
            yield f"{self._document.place(location)}{location[-1]} is for Kubernetes and has no effect here"
        resources = self.service.spec.predictor.container.resources
        for name in sorted({*resources.limits, *resources.requests} - {"cpu", "memory", "ephemeral-storage", *_GPUS}):
            yield f"{self._document.place((*self._base, 'resources'))}the resource {name} has no effect here"
        known = [*_variables(ModelSettings), *_variables(ServerSettings)]
        for name in (*self.model.environment, *self.model.secret_environment):
            if close := get_close_matches(name, known, n=1, cutoff=0.85):
                yield f"{self.place(name)}{name} is not a setting of this server; did you mean {close[0]}?"

    def _read_env(self, references: References) -> None:
        for number, variable in enumerate(self.service.spec.predictor.container.env):
            location = (*self._base, "env", number)
            value = variable.value or ""
            if variable.value_from is not None:
                try:
                    found = references.value(variable.name, variable.value_from)
                except (OSError, ValueError) as error:
                    raise SettingsError(f"{self._document.place(location)}{error}") from None
                if found is None:
                    continue
                value = found
                self._secrets.add(variable.name)
            self.variables[variable.name] = value
            self._origin[variable.name] = (*location, "value")

    def _read_arguments(self) -> None:
        location = (*self._base, "args")
        container = self.service.spec.predictor.container
        try:
            said = parse_arguments(container.args)
        except ArgumentError as error:
            raise SettingsError(f"{self._document.place((*location, error.index))}args: {error}") from None
        if container.storage_uri is not None:
            if is_default_folder(said):
                del said["STORAGE_URI"]
            self._say("STORAGE_URI", container.storage_uri, (*self._base, "storageUri"))
        for name, value in said.items():
            self._say(name, value, location)

    def _say(self, name: str, value: str, location: _Location, *, if_unsaid: bool = False) -> None:
        if if_unsaid and name in self.variables:
            return
        if self.variables.get(name, value) != value:
            raise SettingsError(f"{self._document.place(location)}{name} is said twice, and differently")
        self.variables[name] = value
        self._origin.setdefault(name, location)

    def _model(self) -> ModelSettings:
        known, server = _variables(ModelSettings), _variables(ServerSettings)
        said = {name: value for name, value in self.variables.items() if name in known and value}
        rest = {name: value for name, value in self.variables.items() if name not in known | server}
        secret = {name: SecretStr(rest.pop(name)) for name in self._secrets & rest.keys()}
        options = _storage_options({**os.environ, **self.variables})
        return checked(
            lambda: ModelSettings(**said, storage_options=options, environment=rest, secret_environment=secret),  # type: ignore[arg-type]
            lambda location: self.place(str(location[0])) if location else self._document.place(self._base),
        )


def _server_of(services: list[_Service], server: ServerSettings) -> ServerSettings:
    """The server's settings with those that InferenceServices make for it.

    What a model may say for itself as well, such as LOG_LEVEL, is the server's if all of them say it alike; about the
    rest, those that say anything must agree.
    """
    said: dict[str, str] = {}
    for name in sorted(_variables(ServerSettings) - {"RUNTIME_CONFIG"}):
        values = [service.variables.get(name) or None for service in services]
        first = next(filter(None, values), None)
        if name in _variables(ModelSettings):
            if first is not None and set(values) == {first}:
                said[name] = first
            continue
        for service, value in zip(services, values, strict=True):
            if value not in (None, first):
                raise SettingsError(
                    f"{service.place(name)}{name} holds for the whole server, and another model says otherwise"
                )
        if first is not None:
            said[name] = first
    return checked(lambda: ServerSettings(**said)) if said else server  # type: ignore[arg-type]


def _resources(resources: Resources) -> Iterator[tuple[str, str]]:
    gpus = sum(resources.limits.get(name, resources.requests.get(name, 0)) for name in _GPUS)
    if gpus:
        yield "GPUS", f"{gpus:g}"
    if "cpu" in resources.limits:
        yield "CPUS", str(resources.limits["cpu"])
    if "memory" in resources.limits:
        yield "MEMORY_LIMIT", str(int(resources.limits["memory"]))


def _storage_options(variables: Mapping[str, str]) -> dict[str, SecretStr]:
    return {name: SecretStr(value) for name, value in variables.items() if _STORAGE.fullmatch(name) and value}


def _variables(settings: type[BaseSettings]) -> set[str]:
    return {name for names in _aliases(settings).values() for name in names}


def _aliases(settings: type[BaseSettings]) -> dict[str, list[str]]:
    """Environment variables of each field."""
    aliases = {}
    for field, info in settings.model_fields.items():
        match info.validation_alias:
            case str(name):
                aliases[field] = [name]
            case AliasChoices(choices=choices):
                aliases[field] = [str(choice) for choice in choices]
    return aliases
