"""Which batch services there are: their addresses, the variables that hold their keys, and whose limits they have.

``parasail`` and ``openai`` come along. Others, and changes to these two, stand in the nearest ``pyproject.toml``
upwards of the working directory, or in ``vbatch.toml`` in Jupyter's configuration directory::

    [tool.vbatch.targets.ours]            # in vbatch.toml: [targets.ours]
    base_url = "https://batch.example.org/v1"
    api_key_env = "OURS_API_KEY"          # the variable's name; the key itself stands in no file
    profile = "openai"                    # or "parasail"

A key is read from its variable whenever the service is asked, and is never kept.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.protocol.profiles import PROFILES, Profile


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One batch service.

    Parameters
    ----------
    name
        What ``target=`` and ``--target`` call it.
    base_url
        What its batches and files endpoints stand below, such as ``"https://api.parasail.io/v1"``.
    api_key_env
        Name of the environment variable that holds its key.
    profile
        Whose limits it has; a key of `PROFILES`.
    max_lines, max_bytes
        Requests and bytes of one input file where it takes fewer than its profile says.
    """

    name: str
    base_url: str
    api_key_env: str
    profile: str = "openai"
    max_lines: int | None = None
    max_bytes: int | None = None

    def rules(self) -> Profile:
        """Give the limits of one of its batches.

        Examples
        --------
        >>> target = Target(name="t", base_url="https://t/v1", api_key_env="T_KEY", max_lines=10)
        >>> target.rules().max_lines, target.rules().max_bytes
        (10, 209715200)
        """
        profile = PROFILES[self.profile]
        return dataclasses.replace(
            profile,
            max_lines=_least(profile.max_lines, self.max_lines),
            max_bytes=_least(profile.max_bytes, self.max_bytes),
        )

    def key(self) -> str | None:
        """Read its key from the environment; None where it is not there."""
        return os.environ.get(self.api_key_env) or None


BUILT_IN: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="parasail",
                base_url="https://api.parasail.io/v1",
                api_key_env="PARASAIL_API_KEY",
                profile="parasail",
            ),
            Target(name="openai", base_url="https://api.openai.com/v1", api_key_env="OPENAI_API_KEY"),
        )
    }
)
"""The targets that come along."""


def targets(folder: Path | None = None) -> dict[str, Target]:
    """Give the targets by name: those that come along, then those of the user, then those of the project.

    Parameters
    ----------
    folder
        Where to look upwards for ``pyproject.toml``; the working directory by default.

    Raises
    ------
    BadRequestError
        A file is no TOML, or says something of a target that cannot be.
    """
    found = dict(BUILT_IN)
    for path, _, table in configured_tables(folder):
        fields_by_name = table.get("targets")
        found |= _targets_in(path, fields_by_name if isinstance(fields_by_name, dict) else {}, found)
    return found


def configured_tables(folder: Path | None = None) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Give what users and projects have set: the user's first, then the project's, which goes before it.

    Parameters
    ----------
    folder
        Where to look upwards for ``pyproject.toml``; the working directory by default.

    Yields
    ------
    Path, str, dict
        The file, its table's name in it (empty for the whole file), and the table.

    Raises
    ------
    BadRequestError
        A file is no TOML.
    """
    from jupyter_core.paths import jupyter_config_dir

    of_user = Path(jupyter_config_dir(), "vbatch.toml")
    if of_user.exists():
        yield of_user, "", _toml(of_user)
    start = (folder or Path.cwd()).absolute()
    of_project = next((path for at in (start, *start.parents) if (path := at / "pyproject.toml").is_file()), None)
    if of_project is not None:
        tool = _toml(of_project).get("tool")
        table = tool.get("vbatch") if isinstance(tool, dict) else None
        yield of_project, "tool.vbatch", table if isinstance(table, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequestError(f"The file {path} cannot be read: {error}.", param="target") from error


def named_target(name: str, folder: Path | None = None) -> Target:
    """Give the target of a name.

    Parameters
    ----------
    name
        Such as ``"parasail"``.
    folder
        As for `targets`.

    Raises
    ------
    BadRequestError
        There is none; the message lists those that there are.
    """
    known = targets(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        message = (
            f"There is no target {name!r}.{hint} The targets are {', '.join(known)}; [tool.vbatch.targets.{name}] in "
            "pyproject.toml, with base_url and api_key_env, would make one."
        )
        raise BadRequestError(message, param="target")
    return known[name]


def rules_of(name: str, folder: Path | None = None) -> Profile:
    """Give the limits of a profile, or of a target's single batch, by name; for checks.

    Raises
    ------
    BadRequestError
        There is neither.

    Examples
    --------
    >>> rules_of("parasail").single_model
    False
    """
    return PROFILES[name] if name == "local" else named_target(name, folder).rules()


def _targets_in(path: Path, fields_by_name: Mapping[str, Any], known: Mapping[str, Target]) -> dict[str, Target]:
    read = {}
    for name, fields in fields_by_name.items():
        before = msgspec.to_builtins(known[name]) if name in known else {}
        try:
            read[name] = msgspec.convert({**before, **fields, "name": name}, Target)
            _check(read[name])
        except (TypeError, ValueError) as error:
            message = f"The target {name!r} in {path} is wrong: {error}."
            raise BadRequestError(message, param="target") from error
    return read


def _check(target: Target) -> None:
    parts = urlsplit(target.base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"base_url must be an address with http or https, not {target.base_url!r}")
    if parts.username or parts.password or parts.query:
        # It is kept with the batch, and shown.
        raise ValueError("base_url must hold neither a user, nor a password, nor a query")
    if not target.api_key_env.isidentifier():
        # Also where somebody has put the key itself in its place; it is not repeated here.
        raise ValueError("api_key_env must be the name of an environment variable")
    if target.profile not in PROFILES or target.profile == "local":
        raise ValueError(f"profile must be openai or parasail, not {target.profile!r}")
    if any(limit is not None and limit < 1 for limit in (target.max_lines, target.max_bytes)):
        raise ValueError("max_lines and max_bytes must be at least 1")


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
