"""The server in OpenAPI's terms: a document of every route, made for the models that are served, and a page to try it.

A route is described by an entry in the module of its protocol: `kserve_v1`, `open_inference_v2`, `model_repository`,
`openai` or `bentoml`.
"""
