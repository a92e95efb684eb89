"""DataFrames through OpenAI batches on a vLLM engine that lives in the notebook's kernel.

>>> import vbatch_jupyter as vb
>>> vb.load("demo")  # doctest: +SKIP
>>> out = vb.run(df, "Is this positive? {{ review }}", max_tokens=8)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from vbatch_jupyter.engine.base import Engine
    from vbatch_jupyter.estimate.report import DryRun
    from vbatch_jupyter.frames.schema import Schema
    from vbatch_jupyter.session.batch import Batch

__all__ = [
    "attach",
    "compare",
    "dry_run",
    "load",
    "load_ipython_extension",
    "run",
    "submit",
    "unload",
    "unload_ipython_extension",
]

__version__ = "0.1.0"


def load(
    model: str | None = None, *, url: str | None = None, api_key_env: str | None = None, **engine_args: Any
) -> Engine:
    """Start a vLLM engine in this process, or use a server as the engine, in the place of the one that is loaded.

    Parameters
    ----------
    model
        A Hugging Face id, a folder, or ``"demo"``; of a server the model to use, its first one by default.
    url
        An OpenAI-compatible server or cluster that is the engine, such as ``"http://host:8000/v1"``.
    api_key_env
        The environment variable that holds the server's key.
    **engine_args
        Any argument of ``vllm serve``, such as ``max_model_len=2048`` or ``served_model_name=["a", "b"]``; for a server
        only ``max_num_seqs`` (how many requests it runs at once; 256) and ``served_model_name``.

    Raises
    ------
    EngineArgumentError
        An argument that vLLM refuses; the message names it.
    EngineLoadError
        The model was not found, or the engine did not start.
    """
    from vbatch_jupyter.engine.flags import named, to_flags
    from vbatch_jupyter.session.session import current

    register_accessor()
    return current().load(named(model, url), to_flags({"url": url, "api_key_env": api_key_env, **engine_args}))


def unload() -> None:
    """End the engine and its processes; batches that it was running stay in progress."""
    from vbatch_jupyter.session.session import current

    current().unload()


def submit(
    df: pd.DataFrame,
    template: str,
    *,
    system: str | None = None,
    schema: Schema | None = None,
    endpoint: str = "chat",
    model: str | None = None,
    target: str | None = None,
    output: str = "response",
    custom_id: Hashable | None = None,
    sample: int | None = None,
    fresh: bool = False,
    reorder_fields: bool = False,
    **body: Any,
) -> Batch:
    """Make a batch of a DataFrame, one request a row, and return at once.

    Parameters
    ----------
    df
        The frame; it is not changed.
    template
        The prompt, with ``{{ column }}`` for a row's values; Jinja2.
    system
        The system prompt, sent as it stands.
    schema
        A pydantic model class or a JSON schema that answers must follow; gives one typed column per field.
    endpoint
        ``"chat"``, ``"completions"``, ``"embeddings"`` or ``"responses"``.
    model
        The model's name; the loaded engine's first one by default. A batch for a model that no engine holds waits.
    target
        A batch service that runs it in the place of the engine, such as ``"parasail"`` or ``"openai"``; its key is in
        an environment variable. What it would refuse is said before anything is sent.
    output
        Name of the response column.
    custom_id
        Label of a column whose values name the requests; by default they are named ``row-0``, ``row-1``, …
    sample
        Run the first so many rows only.
    fresh
        Ask the engine for every row. Otherwise a row whose request this engine has answered before, byte for byte,
        takes that answer again.
    reorder_fields
        For templates that send whole rows, such as ``{{ row | tojson }}``: put each row's fields into the order that
        lets the engine compute most beginnings of prompts once. The prompts say the same in another order.
    **body
        What else goes into every request: ``max_tokens``, ``temperature``, ``n``, ``tools``, ….

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        Template, frame or an argument is wrong; nothing runs.
    EngineNotLoadedError
        No engine is loaded, and no ``model`` was named.
    """
    from vbatch_jupyter.session.session import current

    return current().submit(
        df,
        template,
        system=system,
        schema=schema,
        endpoint=endpoint,
        model=model,
        target=target,
        output=output,
        custom_id=custom_id,
        sample=sample,
        fresh=fresh,
        reorder_fields=reorder_fields,
        **body,
    )


def dry_run(df: pd.DataFrame, template: str, **options: Any) -> DryRun:
    """Say what a batch would ask, compute and cost, and run nothing.

    It shows the first requests as they would be sent, the prompt tokens by the engine's tokenizer, how many requests
    are duplicates or have a known answer, what part of the prompts is shared, how long it would take at the rate that
    was measured here, and what services would charge.

    Parameters
    ----------
    df, template, **options
        As for `submit`.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        Template, frame or an argument is wrong.
    EngineNotLoadedError
        No engine is loaded, and no ``model`` was named.
    """
    from vbatch_jupyter.session.dry_run import dry_run
    from vbatch_jupyter.session.session import current

    return dry_run(current(), df, template, **options)


def run(df: pd.DataFrame, template: str, **options: Any) -> pd.DataFrame:
    """Send a DataFrame through a batch, show how it gets on, and return the result.

    The result has the rows, index and columns of the frame, in order, and after them ``response`` (or one column per
    field of the schema) and ``error``, which is missing where the request succeeded. An interrupt cancels the batch
    and gives what is finished; a second one at once leaves it running.

    Parameters
    ----------
    df, template, **options
        As for `submit`.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        Template, frame or an argument is wrong; nothing runs.
    EngineNotLoadedError
        No engine is loaded, or it does not serve the ``model``.
    BatchPausedError
        The engine died and could not be brought back; what is finished is kept, and goes on with the next engine.
    """
    from vbatch_jupyter.session.session import current

    return current().run(df, template, **options)


def attach(id: str) -> Batch:  # noqa: A002 - OpenAI's word
    """Give the handle on a batch of the store, such as one that was made before the kernel was restarted.

    Parameters
    ----------
    id
        ``batch_…``.

    Raises
    ------
    NotFoundError
        There is no such batch.
    """
    from vbatch_jupyter.session.session import current

    return current().attach(id)


def compare(a: Batch | str, b: Batch | str, *, names: tuple[str, str] = ("a", "b")) -> pd.DataFrame:
    """Put two batches of the same rows side by side, such as two prompts or two models, with what changed.

    The result has the rows of the frame, where it is at hand (else ``custom_id``), then both answers, under ``names``,
    the errors where there are any, and ``changed``. With a schema each of its fields has two columns. Rows are joined
    on the custom_id; those that are in one batch only are left out.

    Parameters
    ----------
    a, b
        Two batches, or their ids; waited for if they have not ended.
    names
        What to call the two.

    Raises
    ------
    FrameError
        They were made from different frames, or have no row or no column of answers in common.
    NotFoundError
        There is no batch of such an id.
    """
    first, second = (attach(batch) if isinstance(batch, str) else batch for batch in (a, b))
    return first.compare(second, names=names)


def register_accessor() -> None:
    """Give every DataFrame ``df.vbatch`` with its ``run``, ``submit`` and ``dry_run``."""
    from vbatch_jupyter.frames.accessor import register

    register(submit=submit, run=run, dry_run=dry_run)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics and ``df.vbatch``: ``%load_ext vbatch_jupyter``.

    Parameters
    ----------
    shell
        The shell that loads the extension.
    """
    from vbatch_jupyter.magics import Completer, VBatchMagics

    register_accessor()
    shell.register_magics(VBatchMagics)
    Completer.attach(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away; a loaded engine stays.

    Parameters
    ----------
    shell
        The shell that unloads the extension.
    """
    from vbatch_jupyter.magics import Completer

    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("vbatch", None)
    Completer.detach(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell a Jupyter server what this package adds to it."""
    from vbatch_jupyter.server.app import VBatch

    return [{"module": "vbatch_jupyter", "app": VBatch}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Tell JupyterLab where the panel is, and under which name."""
    return [{"src": "labextension", "dest": "vbatch-jupyter"}]
