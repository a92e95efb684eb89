"""Starts vLLM inside a process that also does other things.

What starting it would do to this process, and how that is prevented:

- vLLM's processes end at SIGINT, and Jupyter's Interrupt sends it to the whole process group: the starting thread
  blocks it first, and they inherit that;
- spawned processes run ``__main__`` again: meanwhile that is `child`, which ties them to this one;
- their sockets would be in the folder for temporary files, and open to the group under a umask of 002: they get a
  private one;
- vLLM sets variables such as LD_PRELOAD: the environment is put back;
- it logs to standard output, which is a notebook's cell: its log goes to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib.util
import json
import logging.config
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbatch_jupyter.engine.vllm import child, contract, installed
from vbatch_jupyter.engine.vllm.answers_key import answers_key
from vbatch_jupyter.errors import EngineArgumentError, EngineError, EngineLoadError, VBatchError
from vbatch_jupyter.protocol.conditions import MAX_SEQUENCES

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from vbatch_jupyter.engine.asgi import Application
    from vbatch_jupyter.engine.vllm.routes import Routes
    from vbatch_jupyter.engine.vllm.stats import EngineCounters
    from vbatch_jupyter.engine.vllm.work import Processes

_LRU_CACHE = type(functools.cache(len))

_LIMITS = {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": 0, "VLLM_MAX_N_SEQUENCES": MAX_SEQUENCES}
"""vLLM's own limits, as a second line of defence behind `protocol.policy`."""

_FEW_CORES = 4
_CORES_VARIABLES = frozenset({"VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU"})
"""A user who has set one of them has chosen which cores compute."""


@dataclasses.dataclass(frozen=True)
class Built:
    """An engine that has been started.

    Parameters
    ----------
    llm
        vLLM's engine client.
    arguments
        What it was started with.
    counters
        Where its figures arrive.
    answers_key, seed
        See `base.Engine`.
    """

    llm: AsyncLLM
    arguments: argparse.Namespace
    counters: EngineCounters
    answers_key: str
    seed: int


def import_vllm(log_path: Path) -> list[str]:
    """Import vLLM and compare it with the contract, in a call of its own before `build`.

    An exception that is kept during the import keeps the frames that led to it. If they were those of `build`,
    the first engine would never be freed.

    Parameters
    ----------
    log_path
        The engine's log.

    Returns
    -------
    list of str
        A sentence for each thing that this vLLM lacks.

    Raises
    ------
    EngineLoadError
        vLLM is not installed, not in order, or lacks something necessary.
    """
    with _guarded(log_path, {}):
        try:
            notes = installed.check()
            from vbatch_jupyter.engine.vllm import arguments  # noqa: F401
        except ImportError as error:
            raise EngineLoadError(_import_message(error)) from error
        for note in notes:
            logging.getLogger("vllm.vbatch").warning(note)
    if not installed.missing("limits"):
        from vllm import envs

        # vLLM reads its variables again for each request, when this process's environment has been restored.
        for name, value in _LIMITS.items():
            setattr(envs, name, value)
    return notes


def build(model: str, flags: Sequence[str], log_path: Path, folder: Path, on_progress: Callable[[str], None]) -> Built:
    """Start an engine; called in a thread that may block for minutes.

    Parameters
    ----------
    model, flags
        What ``vllm serve`` would be given.
    log_path, folder
        The engine's log, and the folder of its processes, in one that is this process's.
    on_progress
        Called with one phrase for each step.

    Raises
    ------
    EngineArgumentError
        vLLM refuses an argument.
    EngineLoadError
        Anything else; the message has what the log says.
    """
    log_start = log_path.stat().st_size if log_path.exists() else 0
    with _guarded(log_path, child.variables(log_path, folder)):
        try:
            return _build(model, flags, on_progress)
        except VBatchError:
            raise
        except Exception as error:
            raise _mapped(error, model, log_path, log_start) from error


def _build(model: str, flags: Sequence[str], on_progress: Callable[[str], None]) -> Built:
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from vbatch_jupyter.engine.vllm.arguments import bounded_engine_args, parse_arguments
    from vbatch_jupyter.engine.vllm.stats import EngineCounters, stat_logger_factory

    arguments = parse_arguments(model, flags)
    on_progress("reading the model's configuration")
    engine_args = bounded_engine_args(arguments)
    # This usage has the defaults for throughput; that of run-batch would run 128 sequences at once, whatever the GPU.
    config = engine_args.create_engine_config(usage_context=UsageContext.LLM_CLASS)
    if not installed.missing("scheduler"):
        from vbatch_jupyter.engine.vllm import scheduler

        scheduler.put_into(config.scheduler_config)
    os.environ.update(child.loopback_of(arguments, os.environ))
    counters = EngineCounters()
    on_progress("starting the engine and loading the weights")
    llm = AsyncLLM.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.LLM_CLASS,
        stat_loggers=None if installed.missing("figures") else [stat_logger_factory(counters)],
        enable_log_requests=engine_args.enable_log_requests,
        disable_log_stats=False,
    )
    return Built(llm, arguments, counters, answers_key(model, arguments), engine_args.seed)


async def build_app(built: Built) -> Application:
    """Put vLLM's OpenAI layer in front of an engine; called on the engine's loop."""
    from vllm.entrypoints.launchers import app as vllm_app
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state

    from vbatch_jupyter.engine.vllm.routes import RenderingExecutor

    if not installed.missing("rendering"):
        executor = built.llm.renderer._executor  # noqa: SLF001 - made to be swapped, but not by us
        executor._inner = RenderingExecutor(executor._inner)  # noqa: SLF001
    with _quiet():
        await built.llm.reset_mm_cache()
        supported_tasks = await built.llm.get_supported_tasks()
        app = vllm_app.build_app(built.arguments, supported_tasks, built.llm.model_config)
        await init_app_state(built.llm, app.state, built.arguments, supported_tasks)
    return app  # type: ignore[no-any-return, unused-ignore]


def routes_of(app: Application) -> Routes | None:
    """Return the functions behind the routes of an engine's OpenAI layer; None if they are not as expected."""
    if installed.missing("fast_routes"):
        return None
    from vbatch_jupyter.engine.vllm.routes import Routes

    return Routes(app)


def processes_of(llm: AsyncLLM) -> Processes | None:
    """Return the processes of an engine; None if it cannot be seen whether they are at work.

    Parameters
    ----------
    llm
        vLLM's engine client.
    """
    if installed.missing("silence") or installed.missing("figures"):
        return None
    from vbatch_jupyter.engine.vllm.work import Processes

    # With Ray its processes may be on other machines, and this is an object without the attribute.
    started = getattr(llm.engine_core.resources.engine_manager, "processes", ())
    return Processes([process.pid for process in started if process.pid is not None])


def keep_memory() -> None:
    """Hide the engine's objects from the garbage collector, as vLLM's own servers do, until `release_memory`.

    That is over a million objects. With hundreds of requests on their way it would go through all of them again and
    again, which took a third of the front end's time. What it no longer looks at is freed all the same when nothing
    refers to it; only what was there before the engine, and then becomes garbage in a circle, waits for the unload.
    """
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Free what a stopped engine has left in this process: tens of megabytes each time."""
    for touch in contract.CONTRACT["caches"].touches:
        for value in list(vars(sys.modules.get(touch.module, object)).values()):
            # By its type: transformers has stand-ins that raise when anything is asked of them.
            if type(value) is _LRU_CACHE:
                value.cache_clear()
    # The front end's objects refer to each other in circles.
    gc.unfreeze()
    gc.collect()
    # Each load runs in another thread, and glibc keeps for a thread what it has freed; musl has no such call.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _guarded(log_path: Path, children: Mapping[str, str]) -> Iterator[None]:
    # The tracker is a process too, and starting it unblocks SIGINT: it comes first.
    resource_tracker.ensure_running()
    log_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = dict(os.environ)
    logging_config_path = log_path.with_suffix(".logging.json")
    logging_config = _logging_config(log_path)
    logging_config_path.write_text(json.dumps(logging_config))
    os.environ.update(
        {
            **children,
            "VLLM_CONFIGURE_LOGGING": "1",
            "VLLM_LOGGING_CONFIG_PATH": str(logging_config_path),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_NO_USAGE_STATS": "1",
            **{name: str(value) for name, value in _LIMITS.items()},
            **all_of_few_cores(before),
        }
    )
    logging.config.dictConfig(logging_config)
    try:
        with _other_main(), _quiet():
            yield
    finally:
        _restore_environment(before)


def all_of_few_cores(environment: Mapping[str, str]) -> dict[str, str]:
    """Let vLLM compute on every core if there are few.

    It would keep one for its front end. Of two that is half of the machine: 500 chats to the demo model take 23 s on
    one core and 13 s on both. Only a model of two layers is slower so, whose front end needs a core for itself.

    Parameters
    ----------
    environment
        What has been chosen already.

    Examples
    --------
    >>> all_of_few_cores({"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"})
    {}
    """
    if len(os.sched_getaffinity(0)) > _FEW_CORES or _CORES_VARIABLES & environment.keys():
        return {}
    return {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # torch's log and Python's warnings are the user's as well: they are led to the engine's log for this time only.
    log = logging.getLogger("torch")
    before, ours = log.handlers[:], logging.getLogger("vllm").handlers[:]
    log.handlers[:] = ours
    try:
        with warnings.catch_warnings():
            # A notebook that makes warnings errors means its own code: torch's deprecations would end each load.
            warnings.simplefilter("default")
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        # The first import of torch has added its own handler meanwhile.
        log.handlers[:] = before + [handler for handler in log.handlers if handler not in [*before, *ours]]


def _restore_environment(before: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@contextlib.contextmanager
def _other_main() -> Iterator[None]:
    # multiprocessing has a spawned process import the module of __main__ by the name that its specification has.
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__spec__ = importlib.util.find_spec(child.__name__)
    if "__file__" in hidden:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = None
        for name, value in hidden.items():
            setattr(main, name, value)


def _logging_config(log_path: Path) -> dict[str, Any]:
    handled = {"handlers": ["file"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(processName)s %(name)s:%(lineno)d %(message)s"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(log_path), "formatter": "line", "delay": True}
        },
        "loggers": dict.fromkeys(("vllm", "transformers", "huggingface_hub", "py.warnings"), handled),
    }


def _import_message(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "vllm":
        return (
            "vLLM is not installed here. Install it with `pip install 'vbatch-jupyter[gpu]'` on a machine with an "
            "NVIDIA GPU, or with `make demo` in a clone for the CPU build."
        )
    return f"vLLM is installed but cannot be imported: {error}."


def _mapped(error: Exception, model: str, log_path: Path, log_start: int) -> EngineError:
    text = str(error).strip()
    if fields := _refused_fields(error):
        return EngineArgumentError(f"vLLM refuses {fields}.")
    if type(error).__name__ in contract.NOT_FOUND["exceptions"] or re.search(contract.NOT_FOUND["message"], text):
        return EngineLoadError(
            f"The model '{model}' was not found: it is neither a local folder nor a model that can be downloaded from "
            f"Hugging Face now. ({_first_sentence(text)})"
        )
    if isinstance(error, ValueError | TypeError):
        return EngineArgumentError(f"vLLM refuses the arguments for '{model}': {text}")
    cause = _root_cause(log_path, log_start) or text or type(error).__name__
    return EngineLoadError(f"The engine for '{model}' did not start: {cause} See the log: {log_path}.")


def _refused_fields(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return ""
    parts = []
    for entry in errors():
        where = "--" + ".".join(map(str, entry["loc"])).replace("_", "-") if entry.get("loc") else "the arguments"
        parts.append(f"{where}: {str(entry['msg']).removeprefix('Value error, ')}")
    return "; ".join(parts)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]


def _root_cause(log_path: Path, log_start: int) -> str:
    """Find the exception that ended the engine's process: vLLM raises only 'see root cause above' here."""
    with contextlib.suppress(OSError):
        with log_path.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()
        causes = [match[1] for line in lines if (match := re.search(r"\b(\w+(?:Error|Exception): .+)", line))]
        for cause in causes:
            if contract.CORE_FAILED not in cause:
                return cause.strip()
    return ""
