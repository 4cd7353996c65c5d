"""Texts of the reference tables where the code has none, or one that is too short for a table.

A text here replaces the description of a field or metric. Delete it once the code says the same.
"""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS: Mapping[str, str] = {
    "STORAGE_URI": "Where the model is. See [models and storage](models-and-storage.md).",
    "TASK": "One of the seven [tasks](tasks/index.md). Unset, the model's `config.json` decides.",
    "MODEL_NAME": "Name of the model in URLs.",
    "MODEL_REVISION": "Branch, tag or commit on the hub. Unset, the default branch.",
    "GGUF_FILE": "Which GGUF file to load if the model has several.",
    "HF_TOKEN": "Token for private and gated models on the hub.",
    "HF_ENDPOINT": "URL of another hub. Unset, `https://huggingface.co`.",
    "HF_HUB_CACHE": "Folder for downloads from the hub. Unset, huggingface_hub's own folder, which `HF_HOME` moves.",
    "HF_HUB_OFFLINE": "Use no network. Serve what is in the caches.",
    "STORAGE_CACHE": (
        "Folder for models from other sources than the hub, for measurements of models, and for compiled kernels. "
        "Folders in it belong to the server's user alone."
    ),
    "STORAGE_CACHE_OLD_COPIES": (
        "How many earlier versions of a model stay in `STORAGE_CACHE`. A version that a process on this machine "
        "serves is never deleted."
    ),
    "PVC_DIR": "Folder where the volumes of `pvc://` are mounted.",
    "TRUST_REMOTE_CODE": "Run Python code that comes with the model.",
    "CUSTOM_PIPELINE": (
        "File in the model's folder that defines `create_pipeline()`. Unset, `custom_pipeline.py` if "
        "`TRUST_REMOTE_CODE` is true. See [custom pipelines](tasks/custom-pipelines.md)."
    ),
    "BASE_MODEL": "Storage URI of the base model of an adapter. Unset, the adapter's config names it.",
    "TORCH_DTYPE": "Precision of the weights. Unset, float32 on a CPU and the checkpoint's own precision on a GPU.",
    "ATTN_IMPLEMENTATION": (
        "Attention implementation of transformers, such as `eager`, `sdpa` or `flash_attention_2`. "
        "Unset, transformers chooses."
    ),
    "DEVICE_MAP": (
        "`auto` spreads one model over all GPUs and the CPU, with accelerate. Unset, the first GPU, or else the CPU."
    ),
    "LOAD_IN_8BIT": "Quantize to 8 bit while loading, with bitsandbytes.",
    "LOAD_IN_4BIT": "Quantize to 4 bit while loading, with bitsandbytes.",
    "QUANTIZATION": (
        "`int8` computes linear layers in int8. It needs a CPU with VNNI. The head of a classifier keeps its precision."
    ),
    "TORCH_CUDA_MEMORY_FRACTION": "Share of a GPU's memory that a runner may use. Unset, all of it.",
    "CUDA_VISIBLE_DEVICES": "Which GPUs the runner sees. Unset, all.",
    "GPUS": "GPUs that BentoML reserves for each runner. A fraction shares one GPU.",
    "CPUS": "CPU cores that each runner may use. Unset, all.",
    "MEMORY_LIMIT": "Memory that each runner may use, such as `4Gi`. Unset, all.",
    "REPLICAS": "Runners of the model. Each has its own copy and its own GPUs.",
    "TORCH_NUM_THREADS": "CPU threads of one runner. Unset, as many as `CPUS` and its container allow.",
    "ACCELERATION": (
        "On a CPU: compiled kernels, packed weights and batches without padding. On a GPU: CUDA graphs. "
        "See [the design pages](design/index.md)."
    ),
    "CALIBRATION_SECONDS": (
        "Time that the first start of a model may spend on measuring which batches suit the machine. 0 turns it off."
    ),
    "MAX_BATCH_SIZE": (
        "Rows in one forward pass. For generation: sequences that run at the same time. Unset, the server measures."
    ),
    "MAX_BATCH_TOKENS": (
        "Tokens in one forward pass, padding included. For generation: tokens in one step. Unset, the server measures."
    ),
    "KV_CACHE_MEMORY": (
        "Memory for keys and values of running sequences, such as `4GiB`. "
        "Unset, a quarter of the free memory, or 85 % of it on a GPU."
    ),
    "MAX_LENGTH": (
        "Length of an answer in tokens. If you set it, it includes the prompt. Unset, 20 new tokens are generated."
    ),
    "DO_SAMPLE": "Sample. False is greedy decoding.",
    "TEMPERATURE": "Sampling temperature.",
    "TOP_K": "Sample from the `k` most likely tokens. 0 turns it off.",
    "TOP_P": "Sample from the most likely tokens whose probabilities add up to `p`.",
    "RETURN_FULL_TEXT": "Answer with the prompt before the generated text.",
    "AGGREGATION_STRATEGY": "How [token-classification](tasks/token-classification.md) joins tokens into entities.",
    "POOLING": "How token vectors become one embedding. Unset, the model's sentence-transformers files decide.",
    "NORMALIZE": "Scale embeddings to length 1. Unset, the model's sentence-transformers files decide.",
    "MATRYOSHKA": "Clients may cut embeddings to fewer dimensions. Unset, the model's config decides.",
    "TEXT_EMBEDDING": (
        "Answer the normalized mean of the token vectors where the model's files do not say how to embed a text."
    ),
    "RETURN_PROBABILITIES": "text-classification answers all labels with probabilities.",
    "RETURN_RAW_LOGITS": "text-classification answers all labels with logits as scores.",
    "MAX_MODEL_LEN": (
        "Longest input in tokens. It may exceed the tokenizer's limit if the model has no position limit, but never "
        "the model's own limit. If you set it, tasks that do not generate cut longer texts. Unset, the model's length."
    ),
    "TRUNCATION": (
        "Cut texts that are longer than the model. "
        "Unset, only where `MAX_MODEL_LEN` is set and the task does not generate."
    ),
    "MAX_NEW_TOKENS": "Most new tokens that a request may ask for. Unset, no limit.",
    "MAX_QUEUE_SIZE": "Instances that may wait for one model.",
    "MAX_QUEUE_ROWS": "Rows that the waiting instances may make together.",
    "MAX_QUEUE_TOKENS": (
        "Tokens that the waiting instances may have together. "
        "Before a text is tokenized, four characters count as one token."
    ),
    "MAX_ROWS_PER_INSTANCE": "Windows of one text, sequences of one prompt, or masks of one text.",
    "MAX_ANSWERS_PER_INSTANCE": (
        "Answers that `top_k` may ask for: to one question, or for all masks of one text together."
    ),
    "MAX_TEXT_LENGTH": "Characters in one instance.",
    "MAX_BODY_SIZE": "Bytes in the body of one request, after decompression.",
    "MAX_INSTANCES": "Instances in one request.",
    "MAX_ANSWERS_SIZE": "Bytes of all answers to one request, as they come from the model.",
    "MAX_BODIES_SIZE": (
        "Bytes of request bodies that one API process holds at a time, from the first byte to the answer. "
        "Unset, 256 MiB or four times `MAX_BODY_SIZE`, whichever is more."
    ),
    "BODY_TIMEOUT": "Seconds in which the server must receive a body.",
    "REQUEST_TIMEOUT": "Seconds in which a request must be answered.",
    "API_KEYS": "Keys of clients, separated by commas. Without this and `API_KEYS_FILE`, clients need no key.",
    "API_KEYS_FILE": "File with keys of clients, one a line. The server reads it again when it changes.",
    "RUNNER_KEY": (
        "Key that the entry service sends to the runners. Unset, the server makes a random one if clients need keys. "
        "Set it where the entry service and the runners start separately."
    ),
    "PUBLIC_HEALTH": "Health routes need no key.",
    "PUBLIC_METRICS": "`/metrics` needs no key.",
    "MAX_STREAMS_PER_KEY": (
        "Streams that one key may read at a time from each API process. Without keys, the limit is for all clients "
        "together. Unset, no limit."
    ),
    "CORS_ORIGINS": (
        "Origins of web pages that may call the server, such as `https://a.example`, separated by commas. "
        "`*` allows all."
    ),
    "DRAIN_SECONDS": "Seconds that running requests get when the server stops. Then the rest end in an error.",
    "API_WORKERS": "Processes of the entry service.",
    "EXIT_ON_FAILURE": "Exit with status 1 once every model has failed and the server will not try any of them again.",
    "MODEL_MANAGEMENT": "Clients may load and unload the configured models.",
    "CE_MERGE": "Answers to CloudEvents copy the attributes of the request.",
    "CE_TYPE": "Type of CloudEvents in answers.",
    "CE_SOURCE": "Source of CloudEvents in answers. Unset, `io.kserve.inference.` and the name of the model.",
    "ACCESS_LOG": "Log one line for each request.",
    "LOG_FORMAT": "`json` logs one JSON object a line.",
    "LOG_LEVEL": "Least severe level that is logged. `DEBUG` reports how each batch was formed.",
    "LOG_PAYLOADS": "Log instances, parameters and answers.",
    "TRANSFORMERS_VERBOSITY": "Log level of transformers.",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "URL of an OpenTelemetry collector. Traces go to `/v1/traces` under it.",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "URL for traces, with its path.",
    "OTEL_TRACES_EXPORTER": "`otlp` or `none`. Unset, `otlp` if there is an endpoint.",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "Only `http/protobuf` is supported.",
    "OTEL_SDK_DISABLED": "Send no traces, even if other variables ask for them.",
    "RUNTIME_CONFIG": "File of InferenceServices, or folder of such files. It takes the place of `STORAGE_URI`.",
    "SECRETS_DIR": "Folder where Secrets and ConfigMaps are mounted, as `name/key`.",
}

#: By name, or by task and name where a task means something else.
PARAMETERS: Mapping[str, str] = {
    "text-classification.top_k": "How many labels to answer, best first. `null` is all.",
    "question-answering.top_k": "How many answers to return. More than 1 makes the answer a list.",
    "fill-mask.top_k": "How many words to answer for each mask.",
    "top_k": "Sample from the `k` most likely tokens. 0 turns it off.",
    "function_to_apply": "From logits to scores. Unset, what fits the model's head.",
    "truncation": "Cut a text that is longer than the model, in place of a 400.",
    "aggregation_strategy": "How tokens become entities. The default is `AGGREGATION_STRATEGY`.",
    "ignore_labels": "Labels to leave out of the answer.",
    "stride": "Read a long text in windows that overlap by this many tokens. It wins over `truncation`.",
    "max_answer_len": "Longest answer in tokens.",
    "max_seq_len": "Longest window in tokens, with the question. Unset, 384, but never more than the model reads.",
    "doc_stride": "Overlap of two windows in tokens. Unset, 128, or less in small windows.",
    "max_question_len": "Cut a longer question. Unset, the model reads the whole question.",
    "handle_impossible_answer": "Allow an empty answer if the context does not hold one.",
    "align_to_words": "Let answers start and end at whole words.",
    "max_length": "Longest sequence in tokens, prompt included. `max_new_tokens` wins over it.",
    "text2text-generation.max_length": "Longest answer in tokens. `max_new_tokens` wins over it.",
    "max_new_tokens": "Most new tokens.",
    "min_new_tokens": "Fewest new tokens.",
    "fill_context": "Without a length, generate as far as the model's context allows.",
    "do_sample": "Sample. False is greedy decoding.",
    "temperature": "Sampling temperature. 0 is greedy.",
    "top_p": "Sample from the most likely tokens whose probabilities add up to `p`.",
    "seed": "Seed for sampling. The same seed and parameters give the same text.",
    "num_return_sequences": "How many answers to one prompt.",
    "repetition_penalty": "Make tokens that occurred less likely (over 1) or more likely (under 1).",
    "presence_penalty": "Subtract this from the logits of tokens that were generated before.",
    "frequency_penalty": "Subtract this from the logits of generated tokens for each time they occurred.",
    "logit_bias": "Numbers to add to the logits of tokens, by token id.",
    "stop": "Texts that end an answer: one string or a list.",
    "ignore_eos": "Continue after the token that ends a text.",
    "response_format": "`json_object` or `json_schema`, as in OpenAI's API. The grammar is enforced while decoding.",
    "logprobs": "How many alternatives to report for each token.",
    "details": "Add the finish reason, token counts and log probabilities to each answer.",
    "feature-extraction.details": "Answer an object with the number of tokens.",
    "return_full_text": "Put the prompt before the new text. Unset, answers follow `RETURN_FULL_TEXT`; streams do not.",
    "text2text-generation.return_full_text": "Only `false`: an answer never has the input in it.",
    "prefix": "Text to put before the input.",
    "src_lang": "Language code of the input, one of the model's. Unset, the model's choice.",
    "tgt_lang": "Language code of the answer, one of the model's. Unset, the model's choice.",
    "targets": "Words to choose from: one string or a list.",
    "pooling": "How token vectors become one vector. Unset, `POOLING` or the model's files decide.",
    "normalize": "Scale the vector to length 1. It needs pooling. Unset, `NORMALIZE` or the model's files decide.",
    "dimensions": "Keep only the first values of the vector, if the model was trained for it.",
    "stream": "Send the answer while it is generated. See [streaming](../protocols/streaming.md).",
}

METRICS: Mapping[str, str] = {
    "requests_total": "HTTP requests by protocol (`v1`, `v2`, `openai`) and status. 499 is a client that left.",
    "request_errors_total": "Refused or failed requests, by kind, such as `invalid_request` or `overloaded`.",
    "request_instances_total": "Instances sent to models.",
    "request_seconds": "Time from the headers of a request to the end of its answer.",
    "request_preprocess_seconds": "Time before the model is called. KServe's server has the same metric.",
    "request_predict_seconds": "Time of the call. KServe's server has the same metric.",
    "request_postprocess_seconds": "Time after the call. KServe's server has the same metric.",
    "model_ready": "1 while the runner can answer.",
    "model_only_nan": (
        "1 while the model computes nothing but NaN, after three batches in a row. The weights are damaged, or "
        "values overflow."
    ),
    "model_load_seconds": "Time to load and warm up the model.",
    "batch_limit_rows": "Rows, or sequences, that a forward pass may have. The server measured them, or you set them.",
    "batch_limit_tokens": "Tokens that a forward pass may have.",
    "compute_lanes": "Workers: forward passes that run at the same time.",
    "compute_threads": "CPU threads of each of those. 0 if a library chooses.",
    "queue_size": "Instances that wait for their first forward pass.",
    "queue_wait_seconds": "Time from the arrival of an instance at the runner to its first forward pass.",
    "batch_rows": "Rows, or sequences, in a forward pass.",
    "batch_tokens": "Tokens in a forward pass, without padding.",
    "padding_tokens_total": "Padding tokens. With the sum of `batch_tokens`, all tokens that were computed.",
    "prompt_tokens_total": "Tokens of inputs.",
    "cached_prompt_tokens_total": "Tokens of inputs that were in the prefix cache.",
    "generated_tokens_total": "Tokens generated.",
    "optimization_failures_total": (
        "Optimizations that failed while the model was loaded. The model is served without them."
    ),
    "running_sequences": "Sequences that are being decoded.",
    "kv_cache_usage_ratio": "Share of the memory for keys and values that is in use.",
    "time_to_first_token_seconds": "Time from the arrival of a prompt to the first token of its answer.",
    "inter_token_latency_seconds": "Time between two tokens of an answer.",
}

ROUTES: Mapping[str, str] = {
    "GET /": "Whether the server takes requests; browsers are sent to `/docs`",
    "GET /v2/": "The same as `GET /v2`",
    "POST /v1/models/{name}:explain": "Explanations, which the server does not have",
    "POST /v2/models/{name}/generate": "Generate a text",
    "POST /v2/models/{name}/generate_stream": "Generate a text as a stream",
    "POST /v2/repository/index": "List the models with their states",
    "POST /openai/v1/embeddings": "Compute embeddings",
}
