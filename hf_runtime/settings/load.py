"""Loading of all settings from the environment and from the documents that it names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from hf_runtime.settings.errors import SettingsError, format_path, to_settings_error, validate_settings
from hf_runtime.settings.inference_service import InferenceService, Resources
from hf_runtime.settings.kserve_arguments import ArgumentError, is_default_folder, parse_arguments
from hf_runtime.settings.model import ModelSettings
from hf_runtime.settings.references import References
from hf_runtime.settings.server import ServerSettings
from hf_runtime.settings.yaml_documents import Document, read_documents

#: Variables with credentials and addresses of object stores and web servers, by their usual names and KServe's.
_STORAGE = re.compile(r"(AWS|S3|GOOGLE|GCS|AZURE|AZ)_\w+|STORAGE_EMULATOR_HOST|awsAnonymousCredential|.+-headers")
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")

_Location = tuple[str | int, ...]


class Settings(BaseModel):
    """Settings of the server and of all its models.

    Attributes:
        models: empty if no model is configured.
        notes: hints for the operator, such as fields without effect; one sentence each.
    """

    model_config = ConfigDict(frozen=True)

    server: ServerSettings
    models: tuple[ModelSettings, ...]
    notes: tuple[str, ...] = ()


def load_settings(config: Path | None = None, default_uri: str | None = None) -> Settings:
    """Read the environment and, if there are any, the InferenceServices.

    Args:
        config: a file of InferenceServices, or a folder of such files; RUNTIME_CONFIG if None.
        default_uri: storage URI of the model to serve if none is configured.

    Raises:
        SettingsError: a value is wrong; the message names the variable, or file, line and field, in one line.
    """
    server = validate_settings(ServerSettings)
    path = config or server.runtime_config
    if path is not None:
        return _load_documents(path, server)
    try:
        models = (ModelSettings(storage_options=_storage_options(os.environ)),)
    except ValidationError as error:
        if [(e["type"], e["loc"]) for e in error.errors()] == [("missing", ("STORAGE_URI",))]:
            return _load_default(default_uri, server)
        raise to_settings_error(error) from None
    return Settings(server=server, models=models, notes=tuple(server.notes()))


def _load_default(uri: str | None, server: ServerSettings) -> Settings:
    if uri is None:
        return Settings(server=server, models=())
    model = validate_settings(lambda: ModelSettings(storage_uri=uri, storage_options=_storage_options(os.environ)))
    return Settings(server=server, models=(model,), notes=tuple(server.notes()))


def _load_documents(path: Path, server: ServerSettings) -> Settings:
    documents = read_documents(path)
    references = References(server.secrets_dir, os.environ, documents)
    services = [_Service(document, references) for document in documents if _kind_of(document) == "InferenceService"]
    if not services:
        raise SettingsError(f"{path} holds no InferenceService")
    notes = [
        f"{document.position(('kind',))}a document of the kind {_kind_of(document)} is not used"
        for document in documents
        if _kind_of(document) not in ("InferenceService", "Secret", "ConfigMap")
    ]
    models = tuple(service.model for service in services)
    names = [model.name for model in models]
    for number, service in enumerate(services):
        if service.model.name in names[:number]:
            raise SettingsError(f"{service.position('MODEL_NAME')}two models are named {service.model.name}")
        notes += service.notes()
    server = _merge_server_settings(services, server)
    return Settings(server=server, models=models, notes=(*notes, *server.notes()))


def _kind_of(document: Document) -> Any:
    """Return the kind of a document.

    A document without a kind counts as an InferenceService, whose validation then reports the missing field.
    """
    content = document.content
    return content.get("kind", "InferenceService") if isinstance(content, dict) else "InferenceService"


class _Service:
    """One InferenceService and the model settings that it resolves to."""

    def __init__(self, document: Document, references: References) -> None:
        self._document = document
        self.service = validate_settings(lambda: InferenceService.model_validate(document.content), document.position)
        predictor = self.service.spec.predictor
        self._base: _Location = ("spec", "predictor", "huggingface" if predictor.huggingface else "model")
        #: Location in the document of each variable.
        self._locations: dict[str, _Location] = {}
        self.variables: dict[str, str] = {}
        self._secrets: set[str] = set()
        self._read_env(references)
        self._read_arguments()
        self._set("MODEL_NAME", self.service.metadata.name, ("metadata", "name"), if_unset=True)
        if predictor.min_replicas > 1:
            self._set("REPLICAS", str(predictor.min_replicas), ("spec", "predictor", "minReplicas"), if_unset=True)
        for variable, value in _resource_variables(predictor.container.resources):
            self._set(variable, value, (*self._base, "resources"), if_unset=True)
        if "STORAGE_URI" not in self.variables:
            raise SettingsError(f"{document.position(self._base)}{format_path(self._base)}.storageUri: is missing")
        self.model = self._model_settings()

    def position(self, variable: str) -> str:
        """Return the file and line of a variable, as a prefix of a message."""
        return self._document.position(self._locations.get(variable, self._base))

    def notes(self) -> Iterator[str]:
        """Yield notes about fields without effect and about variables that look misspelled."""
        for location in self.service.unused_fields():
            yield f"{self._document.position(location)}{location[-1]} is for Kubernetes and has no effect here"
        resources = self.service.spec.predictor.container.resources
        for name in sorted({*resources.limits, *resources.requests} - {"cpu", "memory", "ephemeral-storage", *_GPUS}):
            yield f"{self._document.position((*self._base, 'resources'))}the resource {name} has no effect here"
        known = [*_variables(ModelSettings), *_variables(ServerSettings)]
        for name in (*self.model.environment, *self.model.secret_environment):
            if close := get_close_matches(name, known, n=1, cutoff=0.85):
                yield f"{self.position(name)}{name} is not a setting of this server; did you mean {close[0]}?"

    def _read_env(self, references: References) -> None:
        for number, variable in enumerate(self.service.spec.predictor.container.env):
            location = (*self._base, "env", number)
            value = variable.value or ""
            if variable.value_from is not None:
                try:
                    found = references.value(variable.name, variable.value_from)
                except (OSError, ValueError) as error:
                    raise SettingsError(f"{self._document.position(location)}{error}") from None
                if found is None:
                    continue
                value = found
                self._secrets.add(variable.name)
            self.variables[variable.name] = value
            self._locations[variable.name] = (*location, "value")

    def _read_arguments(self) -> None:
        location = (*self._base, "args")
        container = self.service.spec.predictor.container
        try:
            variables = parse_arguments(container.args)
        except ArgumentError as error:
            raise SettingsError(f"{self._document.position((*location, error.index))}args: {error}") from None
        if container.storage_uri is not None:
            if is_default_folder(variables):
                del variables["STORAGE_URI"]
            self._set("STORAGE_URI", container.storage_uri, (*self._base, "storageUri"))
        for name, value in variables.items():
            self._set(name, value, location)

    def _set(self, name: str, value: str, location: _Location, *, if_unset: bool = False) -> None:
        if if_unset and name in self.variables:
            return
        if self.variables.get(name, value) != value:
            raise SettingsError(f"{self._document.position(location)}{name} has two different values")
        self.variables[name] = value
        self._locations.setdefault(name, location)

    def _model_settings(self) -> ModelSettings:
        known, server = _variables(ModelSettings), _variables(ServerSettings)
        given = {name: value for name, value in self.variables.items() if name in known and value}
        rest = {name: value for name, value in self.variables.items() if name not in known | server}
        secret = {name: SecretStr(rest.pop(name)) for name in self._secrets & rest.keys()}
        options = _storage_options({**os.environ, **self.variables})
        return validate_settings(
            lambda: ModelSettings(**given, storage_options=options, environment=rest, secret_environment=secret),  # type: ignore[arg-type]
            lambda location: self.position(str(location[0])) if location else self._document.position(self._base),
        )


def _merge_server_settings(services: list[_Service], server: ServerSettings) -> ServerSettings:
    """Return the server's settings, updated with those that InferenceServices set.

    A setting that models have too, such as LOG_LEVEL, applies to the server only if all models set the same value. For
    any other setting, all models that set it must agree.

    Raises:
        SettingsError: two models disagree.
    """
    given: dict[str, str] = {}
    for name in sorted(_variables(ServerSettings) - {"RUNTIME_CONFIG"}):
        values = [service.variables.get(name) or None for service in services]
        first = next(filter(None, values), None)
        if name in _variables(ModelSettings):
            if first is not None and set(values) == {first}:
                given[name] = first
            continue
        for service, value in zip(services, values, strict=True):
            if value not in (None, first):
                raise SettingsError(
                    f"{service.position(name)}{name} applies to the whole server, but two models differ"
                )
        if first is not None:
            given[name] = first
    return validate_settings(lambda: ServerSettings(**given)) if given else server  # type: ignore[arg-type]


def _resource_variables(resources: Resources) -> Iterator[tuple[str, str]]:
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
    return {name for names in _aliases_by_field(settings).values() for name in names}


def _aliases_by_field(settings: type[BaseSettings]) -> dict[str, list[str]]:
    """Return the environment variables of each field."""
    aliases = {}
    for field, info in settings.model_fields.items():
        match info.validation_alias:
            case str(name):
                aliases[field] = [name]
            case AliasChoices(choices=choices):
                aliases[field] = [str(choice) for choice in choices]
    return aliases
