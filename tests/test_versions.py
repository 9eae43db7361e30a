"""The versions that the project names: pinned ones, lowest ones, and who may deprecate what."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def versions():
    spec = importlib.util.spec_from_file_location("versions", ROOT / ".ci" / "versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {name.lower().replace("_", "-"): Version(version) for name, version in pairs}


def needed(versions):
    project = versions.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        Requirement(text)
        for text in (*project["dependencies"], *project["optional-dependencies"]["test"])
    ]


def test_a_dependency_without_a_lowest_version_cannot_be_tested_at_it(versions):
    assert {pin.split("==")[0] for pin in versions.lowest()} == {r.name for r in needed(versions)}


def test_the_pins_are_within_what_the_package_claims(versions, pins):
    for requirement in needed(versions):
        pinned = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(pinned), requirement


def test_both_commands_of_the_readme_install_the_pinned_versions():
    commands = re.findall(r"^pip install .*$", (ROOT / "README.md").read_text(), re.M)
    assert len(commands) == 2 and all("-c constraints.txt" in each for each in commands)


def test_a_deprecation_of_ours_would_pass_for_one_of_others():
    """CI lets deprecations warn beyond the pinned versions, since none of them can be ours."""
    kinds = {"DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"}
    named = {
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "hf_ddistill").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in kinds
    }
    assert not named
