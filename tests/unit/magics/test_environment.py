"""``%vbatch env``: which server is meant, what a program needs to reach it, and the file that it is written to."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from vbatch_jupyter.errors import ServerNotFoundError, VBatchError
from vbatch_jupyter.magics import environment

ANN = {"pid": 7, "url": "http://localhost:8888/user/ann/", "token": "ann's token", "password": False, "sock": ""}
BOB = {"pid": 8, "url": "http://localhost:8889/", "token": "b", "password": False, "sock": ""}


def test_the_server_that_jupyter_names_comes_before_ancestors_and_before_the_only_one(monkeypatch):
    monkeypatch.setenv("JPY_PARENT_PID", "8")
    pids = environment.ancestors()
    assert pids[0] == 8
    assert pids[1] == os.getppid()
    assert environment.choose_server([ANN, BOB], pids) is BOB
    monkeypatch.delenv("JPY_PARENT_PID")
    assert environment.ancestors()[0] == os.getppid()
    assert environment.choose_server([ANN, {**BOB, "pid": os.getppid()}], environment.ancestors())["token"] == "b"
    assert environment.choose_server([ANN], [1, 2]) is ANN


def test_no_server_and_several_are_told_apart():
    with pytest.raises(ServerNotFoundError, match=r"You have no Jupyter server running on this machine\. Start one"):
        environment.choose_server([], [1])
    with pytest.raises(ServerNotFoundError) as raised:
        environment.choose_server([ANN, BOB], [1])
    assert "http://localhost:8888/user/ann/, http://localhost:8889/" in str(raised.value)
    assert "token'" not in str(raised.value)


def test_a_server_without_a_token_gets_the_hubs_or_none_is_needed_or_it_is_said(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    assert environment.variables({**ANN, "token": ""})["BATCH_API_KEY"] == "no-key-needed"
    with pytest.raises(ServerNotFoundError, match="but no token for programs"):
        environment.variables({**ANN, "token": "", "password": True})
    with pytest.raises(ServerNotFoundError, match="Unix socket"):
        environment.variables({**ANN, "sock": "/run/jupyter.sock"})
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "of the hub")
    assert environment.variables({**ANN, "token": ""})["BATCH_API_KEY"] == "of the hub"


def test_a_file_keeps_its_other_lines_and_is_for_its_owner_alone(tmp_path):
    path = tmp_path / ".env"
    path.write_text("# mine\nexport BATCH_BASE_URL=old\nOTHER=1\n BATCH_API_KEY = 'old'\nBATCH_API_KEYS=2\n")
    path.chmod(0o644)
    for _ in range(2):
        environment.write(path, environment.variables(ANN))
        assert path.read_text() == (
            "# mine\nOTHER=1\nBATCH_API_KEYS=2\n"
            "BATCH_BASE_URL=http://localhost:8888/user/ann/vbatch/v1\n"
            "BATCH_API_KEY='ann'\"'\"'s token'\n"
        )
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link"
    link.symlink_to(path)
    environment.write(link, {"BATCH_API_KEY": "new"})
    assert link.is_symlink()
    assert path.read_text().endswith("\nBATCH_API_KEY=new\n")
    with pytest.raises(VBatchError, match="cannot be written"):
        environment.write(tmp_path / "no folder" / "file", {})


def describe_servers(folder, monkeypatch, *servers):
    """Put what running servers say of themselves where Jupyter looks for it."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    for number, server in enumerate(servers):
        (folder / f"jpserver-{number}.json").write_text(json.dumps(server))


def test_only_servers_that_live_are_found_and_jupyter_server_is_not_imported_for_it(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    alive = ANN | {"pid": os.getpid()}
    describe_servers(tmp_path, monkeypatch, BOB | {"pid": gone.pid}, alive, {"url": "no pid"})
    (tmp_path / "jpserver-half.json").write_text('{"pid": ')
    assert environment.running_servers() == [alive]
    # Beside vLLM it could not be: both give Prometheus a metric of the same name.
    code = "import sys; from vbatch_jupyter.magics.environment import running_servers; running_servers()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'jupyter_server.serverapp' not in sys.modules"], check=True)


def test_the_magic_writes_a_file_and_shows_the_key_only_if_it_is_asked_to(tmp_path, monkeypatch, capsys):
    describe_servers(tmp_path, monkeypatch, ANN | {"pid": os.getpid()})
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    shell.run_cell("%vbatch env --show")
    assert not (tmp_path / ".env").exists()
    assert capsys.readouterr().out == (
        "export BATCH_BASE_URL=http://localhost:8888/user/ann/vbatch/v1\nexport BATCH_API_KEY='ann'\"'\"'s token'\n"
    )
    other = tmp_path / "other.env"
    for command, path, name in (("", tmp_path / ".env", ".env"), (f" --write {other}", other, str(other))):
        shell.run_cell(f"%vbatch env{command}")
        printed = capsys.readouterr()
        assert printed.out == (
            f"{name} has BATCH_BASE_URL=http://localhost:8888/user/ann/vbatch/v1 and BATCH_API_KEY, for you alone.\n"
        )
        assert "token" not in printed.out + printed.err
        assert path.read_text().endswith("BATCH_API_KEY='ann'\"'\"'s token'\n")
        assert path.stat().st_mode & 0o777 == 0o600
