"""Python keyword arguments ⇄ the flags of ``vllm serve``."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from vbatch_jupyter.errors import EngineArgumentError


def to_flags(arguments: Mapping[str, Any]) -> list[str]:
    """Write keyword arguments as ``vllm serve`` takes them on its command line.

    Parameters
    ----------
    arguments
        By name, with underscores. True and False switch a flag on and off, None leaves it out, a list gives several
        values, a mapping is sent as JSON.

    Examples
    --------
    >>> to_flags({"max_model_len": 2048, "enforce_eager": True, "served_model_name": ["a", "b"]})
    ['--max-model-len', '2048', '--enforce-eager', '--served-model-name', 'a', 'b']
    >>> to_flags({"enable_prefix_caching": False, "hf_overrides": {"a": 1}, "seed": None})
    ['--no-enable-prefix-caching', '--hf-overrides', '{"a": 1}']
    """
    flags: list[str] = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append("--no-" + flag.removeprefix("--"))
        elif isinstance(value, Mapping):
            flags += [flag, json.dumps(value)]
        elif isinstance(value, list | tuple):
            flags += [flag, *map(str, value)]
        else:
            flags += [flag, str(value)]
    return flags


def named(model: str | None, url: str | None) -> str:
    """Return the name of what is loaded: the model's, or the server's if no model is given.

    Raises
    ------
    EngineArgumentError
        Neither is given.

    Examples
    --------
    >>> named("demo", None), named(None, "http://host/v1")
    ('demo', 'http://host/v1')
    """
    if model is None and url is None:
        raise EngineArgumentError("Give a model, such as demo, or a server with --url http://host:8000/v1.")
    return model or url or ""


def served_names(model: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which a model will be served, before there is an engine to ask.

    Parameters
    ----------
    model
        What is loaded; its name where the flags give no other.
    flags
        Flags of ``vllm serve``.

    Examples
    --------
    >>> served_names("demo", ["--served-model-name", "a", "b", "--seed", "1"]), served_names("demo", ["--seed", "1"])
    (('a', 'b'), ('demo',))
    >>> served_names("demo", ["--served_model_name=a"])
    ('a',)
    """
    return tuple(_given(flags).get("--served-model-name", ())) or (model,)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteFlags:
    """The flags for using a server as the engine.

    Parameters
    ----------
    url
        The address of OpenAI's endpoints, such as ``"http://host:8000/v1"``.
    api_key_env
        The environment variable that holds its key; None if it wants none.
    max_num_seqs
        How many requests it runs at once.
    served_model_names
        The models to use, the default first; all models if empty.
    """

    url: str
    api_key_env: str | None = None
    max_num_seqs: int = 256
    served_model_names: tuple[str, ...] = ()


def remote_flags(model: str, flags: Sequence[str]) -> RemoteFlags | None:
    """Read the flags of a load that names a server; None if they name none.

    Parameters
    ----------
    model
        The model that was asked for, or the url again for the server's first model.
    flags
        What follows ``%vbatch load``.

    Raises
    ------
    EngineArgumentError
        A flag that means nothing for a running server, or a value that is not valid.

    Examples
    --------
    >>> remote_flags("m", ["--url", "http://host:8000", "--api-key-env", "KEY"])
    RemoteFlags(url='http://host:8000/v1', api_key_env='KEY', max_num_seqs=256, served_model_names=('m',))
    >>> remote_flags("m", ["--seed", "1"])
    """
    given = _given(flags)
    if "--url" not in given:
        return None
    if unknown := sorted(given.keys() - {"--url", "--api-key-env", "--max-num-seqs", "--served-model-name"}):
        message = f"{unknown[0]} cannot be set for a running server. You can use --url, --api-key-env, "
        raise EngineArgumentError(f"{message}--max-num-seqs and --served-model-name.")
    if odd := [option for option, said in given.items() if len(said) != 1 and option != "--served-model-name"]:
        raise EngineArgumentError(f"{odd[0]} needs exactly one value.")
    url = given["--url"][0].rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise EngineArgumentError(f"--url must be the address of a server, such as http://host:8000/v1, not {url!r}.")
    if parts.username or parts.password:
        # It would be shown wherever the engine is.
        raise EngineArgumentError("--url has a password. Put it into an environment variable and use --api-key-env.")
    running = given.get("--max-num-seqs", ["256"])[0]
    if not running.isdecimal() or not int(running):
        raise EngineArgumentError(f"--max-num-seqs must be the number of requests to run at once, not {running!r}.")
    names = given.get("--served-model-name") or ([] if model == given["--url"][0] else [model])
    return RemoteFlags(
        url=url if parts.path else f"{url}/v1",
        api_key_env=given.get("--api-key-env", [None])[0],
        max_num_seqs=int(running),
        served_model_names=tuple(names),
    )


def _given(flags: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for flag in flags:
        # A negative number is a value.
        if re.match("--?[a-zA-Z]", flag):
            option, _, value = flag.partition("=")
            values = given.setdefault(option.replace("_", "-"), [])
            values += [value] if value else []
        else:
            values.append(flag)
    return given
