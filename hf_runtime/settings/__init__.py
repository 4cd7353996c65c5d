"""Settings, read once at startup from the environment and InferenceService documents.

A value in a document wins over the environment. The variable names are the ones of KServe's Hugging Face runtime.
No other package reads the environment; each receives the frozen objects that are made here.
"""

from hf_runtime.settings.errors import SettingsError
from hf_runtime.settings.load import Settings, load_settings
from hf_runtime.settings.model import ModelSettings, Task, TorchDtype
from hf_runtime.settings.server import ServerSettings, ensure_runner_key

__all__ = [
    "ModelSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "Task",
    "TorchDtype",
    "ensure_runner_key",
    "load_settings",
]
