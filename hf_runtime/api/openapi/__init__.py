"""OpenAPI document of all routes, and a page to try them.

A route is described by an entry in the module of its protocol: `kserve_v1`, `open_inference_v2`, `model_repository`,
`openai` or `bentoml`.
"""
