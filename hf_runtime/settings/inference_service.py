"""Schema of the part of KServe's InferenceService that names a model and its settings.

Fields that only Kubernetes uses are accepted and reported to the operator. Any other unknown field is an error, so that
no field is ignored silently.

Source: https://kserve.github.io/website/docs/reference/crd-api, serving.kserve.io/v1beta1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hf_runtime.settings.quantity import Quantity


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)


def _check_string(value: Any) -> Any:
    """Reject numbers and booleans, because Kubernetes accepts only strings.

    YAML reads `value: 100` as a number.
    """
    if isinstance(value, bool | int | float):
        raise ValueError("must be a string; put it in quotes")
    return value


class KeyRef(_Strict):
    """Reference to one key of a Secret or a ConfigMap."""

    name: str
    key: str
    optional: bool = False


class ValueFrom(_Strict):
    """Source of a variable's value: a key of either a Secret or a ConfigMap."""

    secret: KeyRef | None = Field(None, alias="secretKeyRef")
    config_map: KeyRef | None = Field(None, alias="configMapKeyRef")

    @model_validator(mode="after")
    def _check_one_reference(self) -> Self:
        if (self.secret is None) == (self.config_map is None):
            raise ValueError("must have secretKeyRef or configMapKeyRef")
        return self


class Variable(_Strict):
    """Environment variable, given by value or by reference."""

    name: str = Field(min_length=1)
    value: Annotated[str, BeforeValidator(_check_string)] | None = None
    value_from: ValueFrom | None = Field(None, alias="valueFrom")

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if self.value is not None and self.value_from is not None:
            raise ValueError("has both value and valueFrom")
        return self


class Resources(_Strict):
    """Quantities by resource name: cpu in cores, memory in bytes, nvidia.com/gpu in devices."""

    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    claims: Any = None


class Container(_Strict):
    """Fields that `predictor.huggingface` and `predictor.model` have in common."""

    storage_uri: str | None = Field(None, alias="storageUri", min_length=1)
    env: list[Variable] = []
    args: list[Annotated[str, BeforeValidator(_check_string)]] = []
    resources: Resources = Resources()
    protocol_version: Literal["v1", "v2"] | None = Field(None, alias="protocolVersion")

    # Used by Kubernetes only: pods, images and volumes.
    name: Any = None
    image: Any = None
    imagePullPolicy: Any = None
    livenessProbe: Any = None
    ports: Any = None
    readinessProbe: Any = None
    runtimeVersion: Any = None
    securityContext: Any = None
    startupProbe: Any = None
    volumeMounts: Any = None


class _ModelFormat(_Strict):
    name: Literal["huggingface"]
    version: Any = None


class ModelSpec(Container):
    """Newer form of `Container`, which also names the format of the model."""

    model_format: _ModelFormat = Field(alias="modelFormat")
    runtime: Any = None


class Predictor(_Strict):
    """Model and number of replicas."""

    huggingface: Container | None = None
    model: ModelSpec | None = None
    min_replicas: int = Field(1, alias="minReplicas", ge=0)

    # Used by Kubernetes only: scaling, scheduling and traffic.
    affinity: Any = None
    annotations: Any = None
    autoScaling: Any = None
    batcher: Any = None
    canaryTrafficPercent: Any = None
    containerConcurrency: Any = None
    deploymentStrategy: Any = None
    imagePullSecrets: Any = None
    labels: Any = None
    logger: Any = None
    maxReplicas: Any = None
    nodeSelector: Any = None
    priorityClassName: Any = None
    runtimeClassName: Any = None
    scaleMetric: Any = None
    scaleMetricType: Any = None
    scaleTarget: Any = None
    schedulerName: Any = None
    securityContext: Any = None
    serviceAccountName: Any = None
    terminationGracePeriodSeconds: Any = None
    timeout: Any = None
    tolerations: Any = None
    topologySpreadConstraints: Any = None
    volumes: Any = None

    @model_validator(mode="after")
    def _check_one_model(self) -> Self:
        if (self.huggingface is None) == (self.model is None):
            raise ValueError("must have huggingface or model")
        return self

    @property
    def container(self) -> Container:
        """The container, from the form that the document uses."""
        container = self.huggingface or self.model
        assert container is not None, "this is a bug: the validator lets exactly one pass"
        return container


class _Spec(_Strict):
    predictor: Predictor


class Metadata(BaseModel):
    """Name of a document; the other metadata of Kubernetes is ignored."""

    name: str


class InferenceService(_Strict):
    """Document of kind InferenceService."""

    apiVersion: Literal["serving.kserve.io/v1beta1"]
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: _Spec
    status: Any = None

    def unused_fields(self) -> Iterator[tuple[str, ...]]:
        """Yield the location of each field that is set but used by Kubernetes only."""
        predictor = self.spec.predictor
        form = "huggingface" if predictor.huggingface is not None else "model"
        for location, part in ((("spec", "predictor"), predictor), (("spec", "predictor", form), predictor.container)):
            for name in sorted(part.model_fields_set):
                if type(part).model_fields[name].annotation is Any:
                    yield (*location, name)
