"""All settings, read once at the top: environment variables, or InferenceService documents over them.

The names are those that users of KServe's Hugging Face runtime already set. Nothing below this package reads the
environment; every room is handed the frozen objects made here.
"""

from hf_runtime.settings.errors import SettingsError
from hf_runtime.settings.load import Settings, load_settings
from hf_runtime.settings.model import GENERATIVE_TASKS, AggregationStrategy, ModelSettings, Pooling, Task, TorchDtype
from hf_runtime.settings.server import ServerSettings, with_runner_key

__all__ = [
    "GENERATIVE_TASKS",
    "AggregationStrategy",
    "ModelSettings",
    "Pooling",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "Task",
    "TorchDtype",
    "load_settings",
    "with_runner_key",
]
