"""Every setting of a trainer has a flag, every flag help and default, every figure a meaning."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import typing
from pathlib import Path

import pytest
from cli_runs import refused, run
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_ddistill.cli.commands import COMMANDS
from hf_ddistill.cli.families import members
from hf_ddistill.cli.logged import OF_ALL, OF_DISTILLATION, logged
from hf_ddistill.cli.options.exact import PROBLEMS, ExactOptions
from hf_ddistill.cli.options.shared import TrainingOptions
from hf_ddistill.cli.parser import build_parser
from hf_ddistill.cli.training_arguments import SAME
from hf_ddistill.cli.values import REPORTERS
from hf_ddistill.laboratory import problems
from hf_ddistill.laboratory.students import BenchSettings
from hf_ddistill.samplers import Sampler
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDistillationConfig
from hf_ddistill.training.settings import BOUNDS

ROOT = Path(__file__).parents[2]
#: Options that `TrainingArguments` have under another name, or that are no setting of a training.
RENAMED = {"steps": "max_steps", "batch_size": "per_device_train_batch_size"}
RENAMED |= {"accumulate": "gradient_accumulation_steps", "cpu": "use_cpu"}
OURS = {"resume", "overwrite"}


def command(name):
    """The parser of one command."""
    parser = build_parser([name])
    subs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return subs.choices[name]


def own_fields(config):
    """The fields of a trainer's configuration that are not of `TrainingArguments`."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    return [field for field in dataclasses.fields(config) if field.name not in theirs]


@pytest.mark.parametrize(
    ("name", "config", "without"),
    [
        ("teacher", DiscreteDiffusionConfig, set()),
        # A student's samples take the calls that it is made for.
        ("distill", DiscreteDistillationConfig, {"sample_steps"}),
    ],
)
def test_a_setting_of_a_trainer_has_no_flag_with_its_type_and_default(name, config, without):
    actions = {action.dest: action for action in command(name)._actions}
    own = own_fields(config)
    assert len(own) > 5
    hints = typing.get_type_hints(config)
    options = typing.get_type_hints(COMMANDS[name].options)
    for field in own:
        if field.name in without:
            assert field.name not in actions
            continue
        assert field.name in actions, f"{field.name} has no flag"
        assert actions[field.name].default == field.default, field.name
        assert options[field.name] == hints[field.name]


def test_a_number_of_a_trainer_s_settings_has_no_bounds():
    for field in own_fields(DiscreteDistillationConfig):
        assert field.name in BOUNDS or "bool" in field.type, field.name
    assert set(BOUNDS) <= {field.name for field in own_fields(DiscreteDistillationConfig)}


def test_an_option_of_a_training_is_no_argument_of_the_trainer():
    theirs = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name: field for field in dataclasses.fields(TrainingOptions)}
    for name in set(ours) - OURS:
        assert RENAMED.get(name, name) in theirs, name
    assert set(SAME) <= set(ours)
    assert theirs["optim"].default == ours["optim"].default
    assert set(REPORTERS) == set(INTEGRATION_TO_CALLBACK)


def test_a_setting_of_the_laboratory_has_no_flag_with_its_default():
    ours = {field.name: field for field in dataclasses.fields(ExactOptions)}
    for field in dataclasses.fields(BenchSettings):
        assert field.name in ours
        if field.name == "calls":  # or minutes
            assert f"{field.default:,}" in ours["calls"].metadata["flag"].about
        else:
            assert ours[field.name].default == field.default, field.name
    assert tuple(problems.PROBLEMS) == PROBLEMS


def test_a_sampler_is_not_to_be_had():
    assert set(members("sampler")) == set(Sampler.registry)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_and_what_it_is_by_default(name):
    parser = command(name)
    formatter = parser._get_formatter()
    for action in parser._actions:
        shown = formatter._get_help_string(action) or ""
        if action.dest in ("help", "config", "imports") or not action.option_strings:
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


def test_every_figure_that_is_logged_is_explained():
    names = {n for file in (ROOT / "hf_ddistill").rglob("*.py") for n in recorded(file)}
    assert len(names) > 10
    assert names <= set(OF_ALL) | set(OF_DISTILLATION)
    page, told = (ROOT / "docs" / "logs.md").read_text(), logged(distillation=True)
    for name, (meaning, good) in (OF_ALL | OF_DISTILLATION).items():
        assert f"| `{name}` | {meaning} | {good} |" in page and f"  {name} " in told


@pytest.mark.parametrize("name", ["teacher", "distill"])
def test_the_help_of_a_training_explains_its_log(name, capsys):
    assert run(name, "--help") == 0
    shown = capsys.readouterr().out
    assert "in the log:" in shown and "eval_loss" in shown
    assert ("teacher_entropy" in shown) == (name == "distill")


@pytest.mark.parametrize("first", [["--steps", "3"], ["--steps=3"], ["--no-such"]])
def test_options_before_the_command_are_taken_for_unknown_commands(capsys, first):
    said = refused(capsys, *first, "distill")
    name = first[0].split("=")[0]
    assert said == f"hf-ddistill: options follow the command: hf-ddistill distill {name} ..."
