"""Every setting of a trainer has a flag, every flag help and default, every figure a meaning."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import pytest
from cli_runs import run

from hf_ddistill.cli.logged import OF_ALL, OF_DISTILLATION, logged
from hf_ddistill.cli.main import COMMANDS, build_parser
from hf_ddistill.cli.options import own_fields
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDistillationConfig

ROOT = Path(__file__).parents[2]


def command(name):
    """The parser of one command."""
    parser = build_parser([name])
    subs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return subs.choices[name]


@pytest.mark.parametrize(
    ("name", "configs", "without"),
    [
        ("teacher", [DiscreteDiffusionConfig], set()),
        # A student's samples take the calls that it is made for.
        ("distill", [DiscreteDiffusionConfig, DiscreteDistillationConfig], {"sample_steps"}),
    ],
)
def test_every_setting_of_a_trainer_has_a_flag_with_its_default(name, configs, without):
    actions = {action.dest: action for action in command(name)._actions}
    for config in configs:
        for field in own_fields(config):
            if field.name in without:
                assert field.name not in actions
                continue
            assert field.name in actions, f"{field.name} has no flag"
            assert actions[field.name].default == field.default, field.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_is_by_default(name):
    parser = command(name)
    formatter = parser._get_formatter()
    for action in parser._actions:
        shown = formatter._get_help_string(action) or ""
        if action.dest in ("help", "config") or not action.option_strings:
            continue
        assert shown, f"{name} {action.option_strings[0]} has no help"
        tells_none = action.required or action.nargs == 0 or action.metavar == "FILE"
        assert tells_none or "(default: " in shown, f"{name}: {action.dest}: {shown}"
    assert parser.format_help()


def recorded(path):
    """The names that the source of an objective enters with `step.log`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "log" and node.args and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


def test_every_figure_that_an_objective_logs_is_explained():
    names = {n for file in (ROOT / "hf_ddistill/objectives").rglob("*.py") for n in recorded(file)}
    assert len(names) > 10
    assert names <= set(OF_ALL) | set(OF_DISTILLATION)
    page, told = (ROOT / "docs" / "logs.md").read_text(), logged(distillation=True)
    for name in (*OF_ALL, *OF_DISTILLATION):
        assert f"| `{name}` |" in page and f"  {name} " in told


@pytest.mark.parametrize("name", ["teacher", "distill"])
def test_the_help_of_a_training_explains_its_log(name, capsys):
    assert run(name, "--help") == 0
    shown = capsys.readouterr().out
    assert "in the log:" in shown and "eval_loss" in shown
    assert ("teacher_entropy" in shown) == (name == "distill")
