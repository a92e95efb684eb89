"""Every name of vLLM that is touched, as data, with what it is for and what happens without it.

`installed` compares it with the vLLM that is there whenever an engine is loaded, ``make vllm-next VERSION=…`` with the
sources of any release, and ``docs/upgrading-vllm.md`` says how to support a new release. Nothing here imports vLLM.
"""

from __future__ import annotations

import dataclasses

VERSIONS = {
    "0.32": "tests/engine runs on 0.32.0, on CPUs; not run on a GPU",
    "0.33": "compared with the sources of 0.33.0; not run",
}
"""The releases that work, and how that is known."""

REQUIREMENT = "vllm>=0.32,<0.34"
"""The same for pip, and for the extra ``[gpu]``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Touch:
    """What is touched in one module of vLLM.

    Parameters
    ----------
    module
        Its name.
    names
        Such as ``"SomeClass.attribute"`` and ``"some_function(parameter,another)"``.
    texts
        Parts of its source: names of environment variables, metrics and routes, words of messages.
    before
        The module's name in older releases, where it had another.
    """

    module: str
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    before: str = ""


class Use:
    """What a part of vLLM is used for.

    Parameters
    ----------
    purpose
        What goes on with "which is needed to".
    without
        What happens where something of it is missing; None if no engine can be loaded then.
    touches
        Where it is found.
    """

    def __init__(self, purpose: str, without: str | None, *touches: Touch) -> None:
        self.purpose, self.without, self.touches = purpose, without, touches


def _touch(module: str, *names: str, texts: str = "", before: str = "", **owners: str) -> Touch:
    """Write a `Touch` down, the attributes of a class as one string behind the name of the class."""
    attributes = tuple(f"{owner}.{name}" for owner, those in owners.items() for name in those.split())
    return Touch(module, names + attributes, tuple(texts.split()), before)


FLAGS = _touch(
    "vllm.entrypoints.common.cli_args",
    "make_arg_parser(parser)",
    "validate_parsed_serve_args(args)",
    texts="chat_template enable_prompt_tokens_details",
    before="vllm.entrypoints.launchers.cli_args",
)
ENGINE_FLAGS = _touch(
    "vllm.engine.arg_utils",
    EngineArgs="model served_model_name max_model_len max_num_seqs max_num_batched_tokens scheduling_policy dtype"
    " block_size kv_cache_memory_bytes enforce_eager allowed_media_domains",
    AsyncEngineArgs="from_cli_args(args) create_model_config() create_engine_config(usage_context) enable_log_requests",
)
ARGUMENTS = Use(
    "read the arguments of `vllm serve`",
    None,
    ENGINE_FLAGS,
    FLAGS,
    _touch("vllm.config.model", "ModelConfig.max_model_len"),
    _touch("vllm.platforms", "current_platform"),
    _touch("vllm.platforms.interface", "Platform.is_cpu()"),
    _touch("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
)
ENGINE = Use(
    "start and end an engine",
    None,
    _touch(
        "vllm.v1.engine.async_llm",
        "AsyncLLM.from_vllm_config(vllm_config,usage_context,stat_loggers,enable_log_requests,disable_log_stats)",
        AsyncLLM="shutdown(timeout) reset_mm_cache() get_supported_tasks() errored model_config vllm_config",
    ),
    _touch("vllm.usage.usage_lib", "UsageContext.LLM_CLASS"),
    _touch("vllm.config.vllm", "VllmConfig.scheduler_config"),
    _touch("vllm.config.scheduler", SchedulerConfig="max_num_active_seqs max_num_seqs"),
)
OPENAI_LAYER = Use(
    "answer OpenAI's requests",
    None,
    _touch("vllm.entrypoints.launchers.app", "build_app(args,supported_tasks,model_config)"),
    _touch(
        "vllm.entrypoints.launchers.api_server.app_state",
        "init_app_state(engine_client,state,args,supported_tasks)",
    ),
)

ABORTED = b'"finish_reason":"abort"'
"""Part of vLLM's answer to a request that it aborted. An unescaped quote cannot be inside a JSON string, so these
bytes are the key itself and never a model's words."""

ABORTS = Use(
    "tell an answer that vLLM gave up from one that counts",
    None,
    _touch("vllm.v1.engine", "FINISH_REASON_STRINGS", texts='"abort"'),
)
SCHEDULER = Use(
    "have a chat wait for no batch",
    "vLLM's own scheduler is used, and a chat waits while a batch has all slots.",
    _touch(
        "vllm.v1.core.sched.scheduler",
        Scheduler="schedule() _preempt_request(request,timestamp,drop_stale_output)"
        " _request_blocks_can_be_freed(request) _pause_state block_size current_step kv_cache_manager"
        " max_num_active_reqs max_num_running_reqs num_waiting_for_streaming_input policy prev_step_scheduled_req_ids"
        " running scheduler_config use_v2_model_runner waiting",
    ),
    _touch("vllm.v1.core.sched.async_scheduler", "AsyncScheduler"),
    _touch("vllm.v1.core.sched.interface", "PauseState.UNPAUSED"),
    _touch("vllm.v1.core.sched.request_queue", "SchedulingPolicy.PRIORITY"),
    _touch(
        "vllm.v1.request",
        RequestStatus="WAITING PREEMPTED",
        Request="arrival_time next_decode_eligible_step num_tokens priority request_id status",
    ),
    _touch("vllm.v1.core.kv_cache_manager", "KVCacheManager.block_pool"),
    _touch("vllm.v1.core.block_pool", "BlockPool.get_num_free_blocks()"),
    _touch("vllm.utils.math_utils", "cdiv(a,b)"),
    _touch(
        "vllm.config.scheduler",
        SchedulerConfig="async_scheduling max_num_batched_tokens policy prefill_schedule_interval scheduler_cls",
    ),
)
FAST_ROUTES = Use(
    "answer the requests of batches without vLLM's web application",
    "the requests of batches go through vLLM's web application, and the front end takes twice the time.",
    *(
        _touch(f"vllm.entrypoints.{module}.api_router", f"{function}(request,raw_request)", texts=f'"{path}"')
        for module, function, path in (
            ("openai.chat_completion", "create_chat_completion", "/v1/chat/completions"),
            ("openai.completion", "create_completion", "/v1/completions"),
            ("openai.responses", "create_responses", "/v1/responses"),
            ("pooling.embed", "create_embedding", "/v1/embeddings"),
        )
    ),
    _touch(FLAGS.module, texts="middleware", before=FLAGS.before),
)
RENDERING = Use(
    "render short prompts in place",
    "short prompts are rendered in vLLM's threads, which takes longer.",
    _touch("vllm.v1.engine.async_llm", "AsyncLLM.renderer"),
    _touch("vllm.renderers.base", "BaseRenderer._executor", "_SwappableExecutor._inner"),
)
FIGURES = Use(
    "show what an engine does",
    "the figures of the engine do not change.",
    _touch("vllm.v1.metrics.loggers", StatLoggerBase="record() log_engine_initialized()"),
    _touch(
        "vllm.v1.metrics.stats",
        SchedulerStats="num_running_reqs num_waiting_reqs num_skipped_waiting_reqs kv_cache_usage prefix_cache_stats",
        PrefixCacheStats="queries hits",
        IterationStats="num_generation_tokens prompt_token_stats",
        PromptTokenStats="computed",
    ),
)
CACHES = Use(
    "free what an engine leaves in this process",
    "each unload leaves some tens of megabytes behind.",
    # Caches that have tokenizers and processors among their keys and values, up to 128 of them.
    _touch("vllm.utils.func_utils", "_supports_kw"),
    _touch("vllm.tokenizers.registry", "cached_get_tokenizer", "cached_resolve_tokenizer_args"),
    _touch("vllm.transformers_utils.processor", "cached_get_processor"),
)
TAB = Use(
    "offer the flags of `vllm serve` with Tab",
    "Tab offers no flags after %vbatch load MODEL.",
    _touch(FLAGS.module, "BaseFrontendArgs", "FrontendArgs", before=FLAGS.before),
    _touch(ENGINE_FLAGS.module, texts="add_argument"),
)
BFLOAT16 = Use(
    "know whether a CPU computes in bfloat16",
    "vLLM chooses the data type on CPUs.",
    _touch("torch.cpu", "_is_avx512_bf16_supported()"),
)
LIMITS = Use(
    "set vLLM's own limits behind those of docs/policy.md",
    "only those of docs/policy.md hold.",
    _touch("vllm.envs", texts="VLLM_MEDIA_URL_ALLOW_REDIRECTS VLLM_MAX_N_SEQUENCES"),
)
ENVIRONMENT = Use(
    "start an engine's processes from a kernel and lead their log to a file",
    "what vLLM prints may appear under a cell.",
    _touch(
        "vllm.envs",
        texts="VLLM_CONFIGURE_LOGGING VLLM_LOGGING_CONFIG_PATH VLLM_WORKER_MULTIPROC_METHOD VLLM_NO_USAGE_STATS"
        " VLLM_PLUGINS VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_CPU_OMP_THREADS_BIND VLLM_CPU_KVCACHE_SPACE",
    ),
)
CHILDREN = Use(
    "end an engine's processes with the kernel",
    "an engine's processes may outlive a kernel that is killed.",
    _touch("vllm.plugins", "load_general_plugins()", texts="vllm.general_plugins"),
)
PRIORITIES = Use(
    "put chats before batches",
    "chats are not put before batches.",
    _touch("vllm.entrypoints.generate.base.serving", "PRIORITY_HEADER", texts="X-Vllm-Priority"),
)
TOKENIZE = Use(
    "count the prompt tokens of a request",
    "prompt tokens are not counted before a batch runs.",
    _touch("vllm.entrypoints.serve.tokenize.api_router", "tokenize(request,raw_request)", texts='"/tokenize"'),
)

CORE_FAILED = "Engine core initialization failed"
"""What vLLM raises where its process did not start; the reason is in the log."""

MESSAGES = Use(
    "say why an engine did not start",
    "a load that fails may say less about its cause.",
    Touch("vllm.v1.engine.utils", texts=(CORE_FAILED,)),
)

CONTRACT = {name: value for name, value in tuple(vars().items()) if isinstance(value, Use)}
"""The uses by name, in order."""

ELSEWHERE = (
    Use(
        "read the figures of a server that is the engine (engine/remote_stats.py)",
        "its figures do not change.",
        _touch(
            "vllm.v1.metrics.loggers",
            texts="vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:prompt_tokens"
            " vllm:prefix_cache_queries vllm:prefix_cache_hits vllm:generation_tokens",
        ),
    ),
    Use(
        "compare the body keys that are known with vLLM's (tests/engine/test_body_keys.py)",
        "a key may be called unknown.",
        _touch("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest"),
        _touch("vllm.entrypoints.openai.completion.protocol", "CompletionRequest"),
        _touch("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest"),
        _touch("vllm.entrypoints.pooling.embed.protocol", "EmbeddingRequest"),
    ),
    Use(
        "compare with vLLM's own speed (benchmarks/sides.py; with 0.33 not run)",
        "a side of `make bench` fails.",
        # In 0.33 run_batch takes the open file and the number of its requests as well.
        _touch(
            "vllm.entrypoints.launchers.run_batch",
            "build_endpoint_registry(engine_client,args)",
            "run_batch(engine_client,args)",
            "main(args)",
            "parse_args()",
        ),
        _touch("vllm.entrypoints.llm", "LLM"),
        _touch("vllm.sampling_params", "SamplingParams"),
    ),
)
"""What is touched outside of this folder, and is not checked when an engine is loaded."""
