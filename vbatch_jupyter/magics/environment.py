"""``%vbatch env``: the two variables a program needs to reach the Jupyter server that runs this kernel.

Code that reads ``BATCH_BASE_URL`` and ``BATCH_API_KEY`` runs against this server, and with other values against a batch
service. The key is the server's token. It goes into a file, because the output of a cell is saved with the notebook.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from vbatch_jupyter.errors import ServerNotFoundError, VBatchError

BASE_URL, API_KEY = "BATCH_BASE_URL", "BATCH_API_KEY"

_NO_KEY = "no-key-needed"
_ASSIGNMENT = re.compile(rf"\s*(?:export\s+)?({BASE_URL}|{API_KEY})\s*=")


def of_this_server() -> dict[str, str]:
    """Return both variables for the Jupyter server that runs this kernel.

    Raises
    ------
    ServerNotFoundError
        There is no such server, or it has no token.
    """
    return variables(choose_server(running_servers(), ancestors()))


def running_servers() -> list[dict[str, Any]]:
    """Return the user's running Jupyter servers, as each describes itself in Jupyter's runtime directory."""
    # jupyter_server's function for this cannot be imported together with vLLM: both register a Prometheus metric
    # http_request_duration_seconds.
    servers = []
    for path in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")):
        # Skip one that is just being written, or has just ended.
        with contextlib.suppress(OSError, ValueError, KeyError):
            server = json.loads(path.read_text(encoding="utf-8"))
            os.kill(server["pid"], 0)
            servers.append(server)
    return servers


def ancestors() -> list[int]:
    """Return the processes that this one may descend from, the one that Jupyter names first."""
    pids = []
    with contextlib.suppress(KeyError, ValueError):
        pids.append(int(os.environ["JPY_PARENT_PID"]))
    pid = os.getpid()
    while pid > 1:
        try:
            # The name, in parentheses, may hold blanks; the parent is the second field after it.
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        pids.append(pid)
    return pids


def choose_server(servers: Iterable[Mapping[str, Any]], pids: Iterable[int]) -> Mapping[str, Any]:
    """Choose among the running servers: an ancestor of this process, else the only one.

    Parameters
    ----------
    servers
        As Jupyter lists them.
    pids
        This process's ancestors, nearest first.

    Raises
    ------
    ServerNotFoundError
        No server runs, or several run and none of them is an ancestor.

    Examples
    --------
    >>> choose_server([{"pid": 7, "url": "a"}, {"pid": 8, "url": "b"}], [3, 8])["url"]
    'b'
    """
    by_pid = {server.get("pid"): server for server in servers}
    for pid in pids:
        if pid in by_pid:
            return by_pid[pid]
    if len(by_pid) == 1:
        return next(iter(by_pid.values()))
    if not by_pid:
        raise ServerNotFoundError(
            "You have no Jupyter server running on this machine. Start one with `jupyter server` or `jupyter lab`, "
            "and try again."
        )
    listed = ", ".join(str(server.get("url")) for server in by_pid.values())
    raise ServerNotFoundError(
        f"Several Jupyter servers are running ({listed}), and none of them started this kernel. Run %vbatch env in a "
        "notebook of the server you mean; `jupyter server list` shows their tokens."
    )


def variables(server: Mapping[str, Any]) -> dict[str, str]:
    """Return both variables for one server of Jupyter's list.

    Raises
    ------
    ServerNotFoundError
        It listens on a Unix socket, or has a password but no token.

    Examples
    --------
    >>> variables({"url": "http://localhost:8888/user/ann/", "token": "secret"})["BATCH_BASE_URL"]
    'http://localhost:8888/user/ann/vbatch/v1'
    """
    url = str(server["url"])
    if server.get("sock"):
        raise ServerNotFoundError(f"The Jupyter server at {url} listens on a Unix socket, which cannot be a base URL.")
    # On a hub the server has no token of its own; the hub has given one to this process.
    key = str(server.get("token") or os.environ.get("JUPYTERHUB_API_TOKEN") or "")
    if not key and server.get("password"):
        raise ServerNotFoundError(
            f"The Jupyter server at {url} has a password but no token for programs. Start it with the variable "
            "JUPYTER_TOKEN set."
        )
    return {BASE_URL: f"{url.rstrip('/')}/vbatch/v1", API_KEY: key or _NO_KEY}


def exports(values: Mapping[str, str]) -> str:
    """Write variables as lines for a shell.

    Examples
    --------
    >>> exports({"BATCH_API_KEY": "a b"})
    "export BATCH_API_KEY='a b'"
    """
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def write(path: Path, values: Mapping[str, str]) -> None:
    """Write the variables into a file of such lines that only its owner can read; its other lines stay.

    Parameters
    ----------
    path
        Made if it is missing.
    values
        What to put; lines of both variables that are there already go.

    Raises
    ------
    VBatchError
        The file cannot be read or written.
    """
    path = path.expanduser().resolve()
    try:
        kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [line for line in kept if not _ASSIGNMENT.match(line)]
        lines += [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        # Written next to it and renamed: a reader sees the old or the new file, never with another mode.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, UnicodeDecodeError) as error:
        raise VBatchError(f"The file {path} cannot be written: {error}.") from error
