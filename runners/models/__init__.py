"""Local folder to a loaded model on its device."""
