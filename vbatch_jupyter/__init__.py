"""Run LLM prompts over DataFrames as OpenAI batches, on a vLLM engine in the notebook's kernel.

>>> import vbatch_jupyter as vb
>>> vb.load("demo")  # doctest: +SKIP
>>> out = vb.run(df, "Is this positive? {{ review }}", max_tokens=8)  # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from vbatch_jupyter.engine.base import Engine
    from vbatch_jupyter.estimate.report import DryRun
    from vbatch_jupyter.frames.ask import Column, Prompt
    from vbatch_jupyter.frames.schema import Schema
    from vbatch_jupyter.session.batch import Batch
    from vbatch_jupyter.session.session import Session

F = TypeVar("F", bound="Callable[..., Any]")

__all__ = [
    "attach",
    "col",
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


def _session() -> Session:
    # Imported when it is needed: importing this package must stay cheap.
    from vbatch_jupyter.session.session import current

    return current()


def load(
    model: str | None = None, *, url: str | None = None, api_key_env: str | None = None, **engine_args: Any
) -> Engine:
    """Start a vLLM engine in this process, or use a server as the engine. It replaces the loaded engine.

    Parameters
    ----------
    model
        A Hugging Face id, a folder, or ``"demo"``. With ``url``, one of the server's models; the first by default.
    url
        An OpenAI-compatible server or cluster to use as the engine, such as ``"http://host:8000/v1"``.
    api_key_env
        The name of the environment variable with the server's key.
    **engine_args
        Any argument of ``vllm serve``, such as ``max_model_len=2048`` or ``served_model_name=["a", "b"]``. A ``seed``
        that is not given is chosen by chance; ``batch.engine_seeds`` has it. For a server only ``max_num_seqs`` (how
        many requests it runs at once; 256) and ``served_model_name``.

    Raises
    ------
    EngineArgumentError
        vLLM refuses an argument; the message names it.
    EngineLoadError
        The model was not found, or the engine did not start.
    """
    from vbatch_jupyter.engine.flags import named, to_flags

    register_accessor()
    return _session().load(named(model, url), to_flags({"url": url, "api_key_env": api_key_env, **engine_args}))


def unload() -> None:
    """Stop the engine and its processes. Batches that it was running stay in progress."""
    _session().unload()


def submit(
    df: pd.DataFrame,
    template: Prompt | None = None,
    *,
    messages: Hashable | None = None,
    system: str | None = None,
    schema: Schema | None = None,
    endpoint: str = "chat",
    model: str | None = None,
    target: str | None = None,
    output: str = "response",
    custom_id: Hashable | None = None,
    sample: int | None = None,
    fresh: bool = False,
    on_error: str = "row",
    reorder_fields: bool = False,
    **body: Any,
) -> Batch:
    """Make a batch from a DataFrame, with one request for each row, and return at once.

    Parameters
    ----------
    df
        The DataFrame. It is not changed.
    template
        The prompt, a Jinja2 template with ``{{ column }}`` for the value of each row. A template that uses no column
        is an error, unless it has ``{# no columns #}``. It may also be a list of messages, in which every text is a
        template, or a function that is called with a dict of each row and returns a text or a list of messages. If the
        last message is the assistant's, the answer continues it.
    messages
        The label of a column whose cells are lists of messages (``{"role": …, "content": …}``). The template, if there
        is one, comes after them.
    system
        The system prompt, a template too; it may be the same for every row.
    schema
        A pydantic model class or a JSON schema that answers must follow. The result has one typed column per field.
    endpoint
        ``"chat"``, ``"completions"``, ``"embeddings"`` or ``"responses"``.
    model
        The name of the model; by default the first name of the loaded engine. If no engine has the model, the batch
        waits for one.
    target
        A batch service that runs the batch instead of the engine, such as ``"parasail"`` or ``"openai"``. Its API key
        is read from an environment variable. Requests that it would refuse are an error before anything is sent.
    output
        The name of the response column.
    custom_id
        The label of a column whose values name the requests; by default the names are ``row-0``, ``row-1``, …
    sample
        Run only this many rows, the first ones.
    fresh
        Take no answer from an earlier batch. By default, a row reuses its answer if this engine has already answered
        exactly the same request. With ``temperature=0`` or a seed, equal rows share one answer either way; else each
        has an answer of its own, and takes that one when it runs again.
    on_error
        ``"row"``: a row that cannot be rendered is not sent, and its error is in the result. ``"raise"``: it is an
        error before anything runs.
    reorder_fields
        For templates that send whole rows, such as ``{{ row | tojson }}``: order each row's fields so that prompts
        share long beginnings, which the engine computes only once. The content of the prompts stays the same.
    **body
        Other parameters of every request: ``max_tokens``, ``temperature``, ``n``, ``tools``, …. With
        ``vb.col("limit")``, each row says the value. With ``n=2``, seed 7 has the answers of seeds 7 and 8.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        The template, the DataFrame or an argument is not valid. Nothing runs.
    EngineNotLoadedError
        No engine is loaded, and ``model`` is not given.
    """
    from vbatch_jupyter.frames.ask import Ask

    ask = Ask(
        template=template,
        messages=messages,
        system=system,
        schema=schema,
        endpoint=endpoint,
        model=model,
        target=target,
        output=output,
        custom_id=custom_id,
        sample=sample,
        fresh=fresh,
        on_error=on_error,
        reorder_fields=reorder_fields,
        body=body,
    )
    return _session().submit(df, ask)


def _asks_as_submit_does(function: F) -> F:
    """Let `help` and Tab show the arguments of `submit` for a function that takes the same ones."""
    signature = inspect.signature(submit).replace(return_annotation=function.__annotations__["return"])
    # Without the indentation, which Python 3.13 leaves out by itself.
    documented = inspect.cleandoc(str(submit.__doc__)).partition("\ndf\n")[2].partition("\n\nRaises")[0]
    function.__doc__ = inspect.cleandoc(str(function.__doc__)).replace(
        "df, template, **options\n    As for `submit`.", "df\n" + documented
    )
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


@_asks_as_submit_does
def dry_run(df: pd.DataFrame, template: Prompt | None = None, **options: Any) -> DryRun:
    """Return what a batch would ask, compute and cost, without running anything.

    It shows the first requests as they would be sent, the number of prompt tokens, how many requests are duplicates
    or have a known answer, how much of the prompts is shared, how long the batch would take at the speed measured on
    this machine, and what batch services would charge.

    Parameters
    ----------
    df, template, **options
        As for `submit`.

    Raises
    ------
    TemplateError, FrameError, BadRequestError
        The template, the DataFrame or an argument is not valid.
    EngineNotLoadedError
        No engine is loaded, and ``model`` is not given.
    """
    from vbatch_jupyter.frames.ask import Ask
    from vbatch_jupyter.session.dry_run import dry_run

    return dry_run(_session(), df, Ask.of(template, **options))


@_asks_as_submit_does
def run(df: pd.DataFrame, template: Prompt | None = None, **options: Any) -> pd.DataFrame:
    """Run a DataFrame as a batch, show its progress, and return the result.

    The result has the rows, index and columns of the DataFrame, in order, and after them ``response`` (or one column
    per field of the schema) and ``error``, which is missing if the request succeeded. An interrupt cancels the batch
    and returns the finished answers; a second interrupt right after it leaves the batch running.

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
        The engine died and could not be loaded again. Finished answers are kept; the batch continues on the next
        engine.
    """
    from vbatch_jupyter.frames.ask import Ask

    return _session().run(df, Ask.of(template, **options))


def col(label: Hashable) -> Column:
    """Let each row say the value of a parameter of its request: what a column has there.

    All values are checked before anything runs. The request of a row whose value is missing does not have the
    parameter.

    Parameters
    ----------
    label
        The label of the column.

    Examples
    --------
    >>> import vbatch_jupyter as vb
    >>> vb.run(df, "Sum up: {{ text }}", max_tokens=vb.col("limit"))  # doctest: +SKIP
    """
    from vbatch_jupyter.frames.ask import Column

    return Column(label)


def attach(id: str) -> Batch:  # noqa: A002 - OpenAI's word
    """Return a batch of the store by its id, for example one that was made before a restart of the kernel.

    Parameters
    ----------
    id
        ``batch_…``.

    Raises
    ------
    NotFoundError
        There is no such batch.
    """
    return _session().attach(id)


def compare(
    a: Batch | str, b: Batch | str, *, names: tuple[str, str] = ("a", "b"), noise: bool = False
) -> pd.DataFrame:
    """Put two batches of the same rows side by side, for example two prompts or two models, and mark what changed.

    The result has the rows of the DataFrame if this process still has it (otherwise ``custom_id``), then both answers
    under ``names``, the errors if there are any, and ``changed``. With a schema, each field has two columns. Rows are
    joined on the custom_id; rows that are in only one batch are left out.

    A difference need not come from the prompt. Samples differ anyway. Greedy and seeded answers do too if the engine
    computes in bfloat16, because they depend on what else runs at the same time: of 64 greedy answers 28 differed
    between alone and together, in float32 (``vb.load(…, dtype="float32")``) none. ``noise=True`` shows this.

    Parameters
    ----------
    a, b
        Two batches, or their ids. If they have not ended, this waits for them.
    names
        The names of the two in the result.
    noise
        Run up to 32 of the rows that changed a second time, with both prompts. The column ``noise`` is then true for
        those in which a second run of the same prompt gives another answer too, false for those in which it does not,
        and missing for rows that were not run. These answers are not kept.

    Raises
    ------
    FrameError
        They were made from different DataFrames, or have no row or no column of answers in common.
    NotFoundError
        There is no batch with that id.
    EngineNotLoadedError
        With ``noise``: no engine serves the model of one of the batches.
    """
    first, second = (attach(batch) if isinstance(batch, str) else batch for batch in (a, b))
    return first.compare(second, names=names, noise=noise)


def register_accessor() -> None:
    """Add ``df.vbatch`` with ``run``, ``submit`` and ``dry_run`` to every DataFrame."""
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
    """Remove the magics. A loaded engine stays.

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
