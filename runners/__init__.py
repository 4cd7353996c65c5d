"""One runner a task: text in, the answer of the Hugging Face pipeline out."""
