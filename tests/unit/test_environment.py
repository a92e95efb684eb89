"""``%vbatch env``: which server is meant, what a program needs to reach it, and the file that it is written to."""

from __future__ import annotations

import os

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
    with pytest.raises(ServerNotFoundError, match="No Jupyter server of yours is running on this machine: start one"):
        environment.choose_server([], [1])
    with pytest.raises(ServerNotFoundError) as raised:
        environment.choose_server([ANN, BOB], [1])
    assert "http://localhost:8888/user/ann/, http://localhost:8889/" in str(raised.value)
    assert "token'" not in str(raised.value)


def test_a_server_without_a_token_gets_the_hubs_or_none_is_needed_or_it_is_said(monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    assert environment.variables({**ANN, "token": ""})["BATCH_API_KEY"] == "no-key-needed"
    with pytest.raises(ServerNotFoundError, match="has no token for programs"):
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


def test_the_magic_prints_exports_or_writes_and_then_shows_no_key(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jupyter_server.serverapp.list_running_servers", lambda: iter([ANN]))
    shell = InteractiveShell()
    shell.run_cell("%load_ext vbatch_jupyter")
    capsys.readouterr()
    shell.run_cell("%vbatch env")
    assert capsys.readouterr().out == (
        "export BATCH_BASE_URL=http://localhost:8888/user/ann/vbatch/v1\nexport BATCH_API_KEY='ann'\"'\"'s token'\n"
    )
    path = tmp_path / ".env"
    shell.run_cell(f"%vbatch env --write {path}")
    printed = capsys.readouterr()
    assert printed.out == (
        f"{path} has BATCH_BASE_URL=http://localhost:8888/user/ann/vbatch/v1 and BATCH_API_KEY, for you alone.\n"
    )
    assert "token" not in printed.out + printed.err
    assert path.exists()
