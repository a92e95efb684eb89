"""The pinned versions and pyproject.toml say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))


def pins(file):
    lines = [line for line in (ROOT / "requirements" / file).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def version(requirement):
    (specifier,) = requirement.specifier
    return specifier.version


@pytest.mark.parametrize("file", [path.name for path in FILES])
def test_a_requirements_file_names_exact_versions_and_no_address(file):
    assert pins(file)
    assert all(re.fullmatch(r"==[0-9][^*,]*", str(requirement.specifier)) for requirement in pins(file).values())
    assert "://" not in (ROOT / "requirements" / file).read_text()


def test_a_package_pinned_twice_has_one_version():
    seen: dict[str, str] = {}
    for file in FILES:
        for name, requirement in pins(file.name).items():
            assert seen.setdefault(name, version(requirement)) == version(requirement), f"{name} in {file.name}"


def test_every_dependency_of_the_package_is_pinned_at_a_version_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {
        "base.txt": project["project"]["dependencies"] + project["dependency-groups"]["notebook"],
        "dev.txt": project["dependency-groups"]["dev"],
        "cpu.txt": project["project"]["optional-dependencies"]["cpu"],
        "gpu.txt": project["project"]["optional-dependencies"]["gpu"],
    }
    for file, requirements in asked.items():
        pinned = pins(file)
        for requirement in map(Requirement, requirements):
            pin = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version(pin)), f"{requirement} against {pin} in {file}"


def test_the_newest_entry_of_the_changelog_is_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)

    assert entries[0] == project["version"]
