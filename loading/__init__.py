"""From a storage URI and load options to a model on its device."""


class LoadError(Exception):
    """The model cannot be loaded; the message is one sentence that says what is wrong and what to do."""
