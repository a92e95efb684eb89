"""Bringing the browser: what is installed, and what is said where that cannot be."""

from __future__ import annotations

import sys

import pytest

from tools.bring_chromium import MISSING, bring, find, main


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a folder that is all of the path, and a function that puts a program there."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, code):
        (folder / name).write_text(f"#!{sys.executable}\nimport os, pathlib, sys\n{code}\n")
        (folder / name).chmod(0o755)

    return folder, put


def test_a_browser_that_is_there_is_taken_and_nothing_is_said(programs):
    folder, put = programs
    put("chromium", "")
    said: list[str] = []
    assert bring(said.append, is_root=True) == find() == str(folder / "chromium")
    assert said == []


def test_root_installs_it_after_looking_for_the_newest(programs):
    folder, put = programs
    chromium = folder / "chromium"
    put("apt-get", f"pathlib.Path({str(folder / 'log')!r}).open('a').write(' '.join(sys.argv[4:]) + '\\n')\n")
    with (folder / "apt-get").open("a") as file:
        file.write(f"if 'install' in sys.argv: os.symlink({sys.executable!r}, {str(chromium)!r})\n")
    said: list[str] = []
    assert bring(said.append, is_root=True) == str(chromium)
    assert (folder / "log").read_text() == "update\ninstall --yes --no-install-recommends chromium\n"
    assert said[0] == "Installing Chromium with apt-get ..."


def test_where_the_installation_fails_it_is_said_why(programs):
    _, put = programs
    put("apt-get", "print('E: no network'); sys.exit(100)")
    said: list[str] = []
    assert bring(said.append, is_root=True) is None
    assert said[1:] == [f"{MISSING} It was tried, and apt-get update failed:\nE: no network"]


@pytest.mark.parametrize("is_root", [True, False])
def test_who_cannot_install_is_told_what_to_run(programs, is_root):
    if not is_root:
        programs[1]("apt-get", "sys.exit(1)")
    said: list[str] = []
    assert bring(said.append, is_root=is_root) is None
    assert said == [MISSING]


def test_a_missing_browser_fails_no_set_up(programs, capsys):
    assert main() == 0
    assert capsys.readouterr().out == MISSING + "\n"
