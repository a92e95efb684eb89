"""The configuration of batch services: their addresses, the variables with their keys, and their limits.

``parasail`` and ``openai`` are built in. Others, and changes to these two, are in the nearest ``pyproject.toml``
above the working directory, or in ``vbatch.toml`` in Jupyter's configuration directory::

    [tool.vbatch.targets.ours]            # in vbatch.toml: [targets.ours]
    base_url = "https://batch.example.org/v1"
    api_key_env = "OURS_API_KEY"          # the variable's name; the key itself is in no file
    profile = "openai"                    # or "parasail"

A key is read from its variable whenever the service is asked, and is never kept.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vbatch_jupyter.errors import BadRequestError, did_you_mean
from vbatch_jupyter.protocol.profiles import PROFILES, Profile


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One batch service.

    Parameters
    ----------
    name
        The name for ``target=`` and ``--target``.
    base_url
        The address of its API, such as ``"https://api.parasail.io/v1"``.
    api_key_env
        Name of the environment variable that holds its key.
    profile
        Whose limits it has; a key of `PROFILES`.
    max_lines, max_bytes
        Requests and bytes of one input file, if it accepts fewer than its profile.
    """

    name: str
    base_url: str
    api_key_env: str
    profile: str = "openai"
    max_lines: int | None = None
    max_bytes: int | None = None

    def rules(self) -> Profile:
        """Return the limits of one of its batches.

        Examples
        --------
        >>> target = Target(name="t", base_url="https://t/v1", api_key_env="T_KEY", max_lines=10)
        >>> target.rules().max_lines, target.rules().max_bytes
        (10, 209715200)
        """
        profile = PROFILES[self.profile]
        if self.base_url != BUILT_IN[self.profile].base_url:
            # Another service with the same limits for files; who answers there is not known.
            profile = dataclasses.replace(profile, server="compatible", refuses_unknown=False, models=None)
        return dataclasses.replace(
            profile,
            max_lines=_least(profile.max_lines, self.max_lines),
            max_bytes=_least(profile.max_bytes, self.max_bytes),
        )

    def key(self) -> str | None:
        """Read its key from the environment; None if it is not set."""
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
"""The built-in targets."""


def targets() -> dict[str, Target]:
    """Return the targets by name: the built-in ones, then those of the user, then those of the project.

    Raises
    ------
    BadRequestError
        A file is not TOML, or a target in it is not valid.
    """
    by_name = dict(BUILT_IN)
    for path, _, table in configured_tables():
        fields_by_name = table.get("targets")
        by_name |= _targets_in(path, fields_by_name if isinstance(fields_by_name, dict) else {}, by_name)
    return by_name


def configured_tables() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Return what users and projects have set: the user's first, then the project's, which overrides it.

    Yields
    ------
    Path, str, dict
        The file, its table's name in it (empty for the whole file), and the table.

    Raises
    ------
    BadRequestError
        A file is not TOML.
    """
    from jupyter_core.paths import jupyter_config_dir

    of_user = Path(jupyter_config_dir(), "vbatch.toml")
    if of_user.exists():
        yield of_user, "", _toml(of_user)
    start = Path.cwd()
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


def named_target(name: str) -> Target:
    """Return the target of a name.

    Parameters
    ----------
    name
        Such as ``"parasail"``.

    Raises
    ------
    BadRequestError
        There is no such target; the message lists the targets.
    """
    known = targets()
    if name not in known:
        hint = did_you_mean(name, known, written=str)
        message = (
            f"There is no target {name!r}.{hint} The targets are {', '.join(known)}; to add one, write "
            f"[tool.vbatch.targets.{name}] with base_url and api_key_env into pyproject.toml."
        )
        raise BadRequestError(message, param="target")
    return known[name]


def rules_of(name: str) -> Profile:
    """Return the limits of a profile, or of a target's single batch, by name; for checks.

    Raises
    ------
    BadRequestError
        There is neither.

    Examples
    --------
    >>> rules_of("parasail").single_model
    False
    """
    return PROFILES[name] if name == "local" else named_target(name).rules()


def _targets_in(path: Path, fields_by_name: Mapping[str, Any], known: Mapping[str, Target]) -> dict[str, Target]:
    read = {}
    for name, fields in fields_by_name.items():
        before = msgspec.to_builtins(known[name]) if name in known else {}
        try:
            read[name] = msgspec.convert({**before, **fields, "name": name}, Target)
            _check(read[name])
        except (TypeError, ValueError) as error:
            message = f"The target {name!r} in {path} is not valid: {error}."
            raise BadRequestError(message, param="target") from error
    return read


def _check(target: Target) -> None:
    parts = urlsplit(target.base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"base_url must be an http or https address, not {target.base_url!r}")
    if parts.username or parts.password or parts.query:
        # It is kept with the batch, and shown.
        raise ValueError("base_url must not have a user, a password or a query")
    if not target.api_key_env.isidentifier():
        # The value may be the key itself by mistake, so do not repeat it.
        raise ValueError("api_key_env must be the name of an environment variable")
    if target.profile not in PROFILES or target.profile == "local":
        raise ValueError(f"profile must be openai or parasail, not {target.profile!r}")
    if any(limit is not None and limit < 1 for limit in (target.max_lines, target.max_bytes)):
        raise ValueError("max_lines and max_bytes must be at least 1")


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
