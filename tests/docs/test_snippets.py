"""Every snippet of README and docs is used: Python runs, in few steps, with small models under the
names on the page; commands are parsed; links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import sys

import pytest
from pages import PAGES, ROOT, blocks, commands, links, name
from snippet_folders import lay_out, shorten_trainings

from hf_ddistill.cli.commands import COMMANDS
from hf_ddistill.cli.parser import build_parser, read
from hf_ddistill.objectives import Objective
from hf_ddistill.samplers import Sampler

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
#: Why a block does not run here: a reason, or the file that tests/test_one_of_each.py makes of it.
MARK = re.compile(r"not run: \w.*|mine/\w+\.py")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snippets")
    lay_out(folder)
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_a_snippet_does_not_run_as_it_stands(page, laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    shorten_trainings(monkeypatch)
    names = {"__name__": "snippet"}
    for block in blocks(page, "python"):
        if not block.mark:
            exec(compile(block.text, name(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_a_snippet_names_what_the_package_does_not_have(page):
    for block in blocks(page, "python"):
        assert not block.mark or MARK.fullmatch(block.mark), f"no reason: {block.mark!r}"
        tree = ast.parse(block.text)
        known = _imported(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = _named(call.func, known)
            if called is not None:
                given = {keyword.arg for keyword in call.keywords} - {None}
                assert _accepted(called, given), f"{ast.unparse(call.func)}: {given}"


def _imported(tree):
    """The objects that a snippet imports from the package, by their names there."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hf_ddistill":
            module = importlib.import_module(node.module)
            found |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
    return found


def _named(func, known):
    """What is called, if it was imported or is an attribute of what was."""
    if isinstance(func, ast.Name):
        return known.get(func.id)
    inner = _named(func.value, known) if isinstance(func, ast.Attribute) else None
    return None if inner is None else getattr(inner, func.attr)


def _accepted(called, given):
    """Whether a function or class takes these keywords."""
    parameters = inspect.signature(called).parameters.values()
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    return takes_all or given <= {each.name for each in parameters}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_is_refused_by_the_parser(page, capsys):
    for words in commands(page):
        if "hf-ddistill" in words:
            argv = words[words.index("hf-ddistill") + 1 :]
        elif "hf_ddistill.cli" in words:
            argv = words[words.index("hf_ddistill.cli") + 1 :]
        else:
            continue
        if len(argv) == 1 and argv[0] in COMMANDS:
            continue  # a command is spoken of
        try:
            read(build_parser(argv[:1]), argv)
        except SystemExit as end:
            if end.code:
                pytest.fail(f"{' '.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_gives_an_objective_a_setting_that_it_does_not_have(page):
    for words in commands(page):
        flag = None
        for word in words:
            flag = word if word.startswith("--") else flag
            if word.startswith('{"type": '):
                family = Sampler if flag == "--sampler" else Objective
                family.from_config(json.loads(word))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_names_a_script_or_flag_that_is_not_there(page):
    for words in commands(page):
        if words[:1] == ["python"] and not words[1].startswith("-"):
            script = ROOT / words[1]
            assert script.is_file(), words
            flags = {word for word in words[2:] if word.startswith("--")}
            assert flags <= set(re.findall(r'"(--[a-z0-9-]+)"', script.read_text())), words
        if words[:1] == ["pytest"]:
            paths = [word.split("::")[0] for word in words if word.startswith("tests/")]
            assert all((ROOT / path).exists() for path in paths), words


class Parsed(Exception):
    """A command was accepted."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_of_a_benchmark_is_refused_by_its_parser(page, monkeypatch, tmp_path, capsys):
    inner, text = argparse.ArgumentParser.parse_args, tmp_path / "text.txt"
    text.touch()

    def parsed(parser, *given):
        inner(parser, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for words in commands(page):
        script = ROOT / words[1] if words[:1] == ["python"] and len(words) > 1 else ROOT
        if script.parent.name != "benchmarks" or "ArgumentParser" not in script.read_text():
            continue
        argv = [str(text) if word.endswith(".txt") else word for word in words[1:]]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises((Parsed, SystemExit)) as end:
            importlib.import_module(script.stem).main()
        assert end.type is Parsed, f"{' '.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_nowhere(page):
    assert [str(path) for path in links(page) if not path.exists()] == []


def test_the_readme_is_longer_than_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_a_page_is_missing_in_the_index():
    docs = ROOT / "docs"
    for index in (docs / "README.md", docs / "results" / "README.md"):
        beside = {path.resolve() for path in index.parent.glob("*.md")} - {index.resolve()}
        assert beside <= {path.resolve() for path in links(index)}


def test_contributing_names_other_rooms_than_there_are():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## The rooms")[1].split("## ")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.M)))
    package = ROOT / "hf_ddistill"
    there = {path.stem for path in package.glob("*.py")}
    there |= {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert sorted(named) == sorted(there)
