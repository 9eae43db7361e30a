"""Members of families on the command line: known from the source, their settings flags."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json

import pytest
from cli_runs import refused

from hf_ddistill.cli import families, members
from hf_ddistill.cli.options.list_families import FAMILIES
from hf_ddistill.cli.options.member_flags import MemberFlags, check_member
from hf_ddistill.cli.parser import build_parser, read
from hf_ddistill.configurable import Configurable
from hf_ddistill.objectives import Objective
from hf_ddistill.unmasking import Unmasking

PATHS = {"teacher": "t", "data": "digits", "output": "out"}
DISTILL = ["distill", *(word for name in PATHS for word in (f"--{name}", PATHS[name]))]


def objective(*flags, command=DISTILL):
    """What the command line makes of --objective and its flags."""
    return read(build_parser([command[0]]), [*command, *flags])["objective"]


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_member_or_setting_is_other_in_the_source_than_in_the_class(family):
    ours = {
        name: cls
        for name, cls in members.family_class(family).registry.items()
        if cls.__module__.startswith("hf_ddistill.")
    }
    found = families.members(family)
    assert {name for name in found if name in ours} == set(ours)
    for name, cls in ours.items():
        said = {setting.name: setting for setting in found[name].settings}
        assert list(said) == [field.name for field in dataclasses.fields(cls)], name
        for field in dataclasses.fields(cls):
            no_default = (field.default, field.default_factory) == (dataclasses.MISSING,) * 2
            assert (said[field.name].default is None) == no_default, field.name
            assert said[field.name].annotation == field.type
        assert found[name].about == " ".join(inspect.getdoc(cls).split("\n\n")[0].split())


def test_a_family_is_not_listed():
    assert set(FAMILIES.values()) == set(families.family_rooms())
    of_package = {
        base.family
        for base in Configurable.__subclasses__()
        if base.__module__.startswith("hf_ddistill.")
    }
    assert of_package <= set(families.family_rooms())


def test_a_setting_of_an_objective_has_no_flag():
    assert objective() == "law_matching"
    assert json.loads(objective("--objective.maskings", "2")) == {
        "type": "law_matching",
        "maskings": 2,
    }
    given = ["--objective", '{"type": "ecd", "top_k": 3, "coupling": "x"}']
    assert json.loads(objective(*given, "--objective.top_k", "none")) == {
        "type": "ecd",
        "top_k": None,
        "coupling": "x",
    }


def test_what_an_objective_is_made_of_has_no_flags():
    flags = ["--objective", "opdlm", "--objective.rollouts.tokens", "64"]
    rule = ["--objective.rollouts.unmasking", "factor"]
    assert json.loads(objective(*flags, *rule, "--objective.rollouts.unmasking.factor", "2"))[
        "rollouts"
    ] == {"tokens": 64, "unmasking": {"type": "factor", "factor": 2}}
    # The default rule has its settings, too.
    threshold = "--objective.rollouts.unmasking.threshold"
    assert json.loads(objective(*flags, threshold, "0.5"))["rollouts"] == {
        "tokens": 64,
        "unmasking": {"type": "threshold", "threshold": 0.5},
    }


def test_what_an_objective_is_made_of_has_the_flags_of_another_s_default(capsys):
    reward = ["--objective", "outcome_reward"]  # its rule is not that of other rollouts
    assert json.loads(objective(*reward, "--objective.rollouts.unmasking.score", "random"))[
        "rollouts"
    ] == {"unmasking": {"type": "static", "score": "random"}}
    with pytest.raises(SystemExit):
        read(build_parser(["distill"]), ["distill", *reward, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "one after another in the batch (default: 8)" in shown
    assert "(default: Static('entropy'))" in shown and "(default: 'entropy')" in shown


def test_flags_of_what_json_names_are_those_of_the_default():
    given = ["--objective", '{"type": "opdlm", "rollouts": {"unmasking": "static"}}']
    assert json.loads(objective(*given, "--objective.rollouts.unmasking.score", "random")) == {
        "type": "opdlm",
        "rollouts": {"unmasking": {"type": "static", "score": "random"}},
    }


def test_one_of_several_objectives_has_no_flags(capsys):
    def several(*flags):
        return read(build_parser(["exact"]), ["exact", "--objective", *flags])["objective"]

    assert json.loads(several("ecd", "--objective.top_k", "2")[0]) == {"type": "ecd", "top_k": 2}
    assert several("ecd", "law_matching") == ["ecd", "law_matching"]
    with pytest.raises(SystemExit):  # of which?
        several("ecd", "law_matching", "--objective.top_k", "2")


def test_a_flag_does_not_override_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("objective: {type: law_matching, maskings: 2, steps: only}\n")
    made = json.loads(objective("--config", str(file), "--objective.maskings", "4"))
    assert made == {"type": "law_matching", "maskings": 4, "steps": "only"}


def test_the_help_of_a_command_does_not_show_the_settings(capsys):
    with pytest.raises(SystemExit):
        read(build_parser(["distill"]), ["distill", "--objective", "ecd", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--objective.top_k TOP_K" in shown and "(default: None)" in shown
    assert "--objective.maskings" not in shown


REFUSED = {
    "unknown": (["--objective", "law_machting"], "did you mean 'law_matching'"),
    "no setting": (
        ["--objective.maskngs", "2"],
        "--objective.maskngs: law_matching has no such setting; there are: objective.gradient,",
    ),
    "another's": (
        ["--objective", "ecd", "--objective.maskings=2"],
        "--objective.maskings: ecd has no such setting; there are: objective.divergence,",
    ),
    "of nothing": (["--objective", "ecdd", "--objective.top_k", "2"], "did you mean 'ecd'"),
    "a word": (["--objective.maskings", "two"], "must be an integer, got 'two'"),
    "a fraction": (["--objective.maskings", "2.5"], "must be an integer, got '2.5'"),
    "json": (["--objective", '{"type": "ecd", "top": 1}'], "ECD has no setting 'top'"),
    "kind": (["--objective", '{"type": "ecd", "top_k": true}'], "must be an integer, got true"),
    "no type": (["--objective", '{"top_k": 1}'], "needs a 'type': its objective's id"),
    "inside": (["--objective", "ecd", "--objective.divergence", "kl"], "unknown divergence 'kl'"),
    "a part": (
        ["--objective", '{"type": "opdlm", "rollouts": {"token": 1}}'],
        "rollouts of opdlm has no setting 'token'; it has: by, tokens",
    ),
    "no member": (
        ["--objective", '{"type": "law_matching", "sampler": 3}'],
        "--objective: sampler of law_matching must be an id, or a mapping with a 'type', got 3.",
    ),
    "no part": (
        ["--objective", "opdlm", "--objective.rollouts", "5"],
        "--objective: rollouts of opdlm must be a mapping of its settings, got 5.",
    ),
    "idle width": (["--noise-std", "1"], "noise_std=1.0 is of a noise input, and noise_dim is 0"),
    "idle prompt": (["--prompt-length", "8", "--max-length", "8"], "leaves nothing to train on"),
    "no view": (["--objective.maskings", "0"], "maskings must be at least 1, got 0"),
    "no step": (["--auxiliary-updates", "5", "--steps", "3"], "would never be updated"),
    "no file": (["--eval-data", "nowhere.txt"], "--eval-data names nowhere.txt, which is not a"),
}


@pytest.mark.parametrize(("flags", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_setting_is_not_one_sentence(flags, says, capsys):
    assert says in refused(capsys, *DISTILL, *flags)


def test_a_member_of_another_package_is_not_known():
    @dataclasses.dataclass(frozen=True)
    class Foreign(Unmasking):
        """A rule of a user's own.

        Args:
            share: of the tokens.
        """

        share: float = 0.5
        id = "foreign"

        def pick(self, draft):
            """Nothing."""

    try:
        parser = build_parser(["sample"])
        given = ["sample", "m", "--unmasking", "foreign", "--unmasking.share", "0.25"]
        text = read(parser, given)["unmasking"]
        assert json.loads(text) == {"type": "foreign", "share": 0.25}
        check_member("--unmasking", "unmasking", text)
        assert families.members("unmasking")["foreign"].settings[0].about == "of the tokens."
    finally:
        Unmasking.registry.pop("foreign", None)


def test_a_module_of_the_user_s_is_not_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_rules.py").write_text(
        "from hf_ddistill.unmasking import Threshold\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Sure(Threshold):\n"
        "    id = 'sure'\n"
        "    threshold: float | int = 0.99\n"  # a type, not its text
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        given = ["sample", "m", "--import", "my_rules", "--unmasking", "sure"]
        assert read(build_parser(["sample"]), given)["unmasking"] == "sure"
        assert families.members("unmasking")["sure"].settings[0].annotation == "float | int"
        check_member("--unmasking", "unmasking", "sure")
    finally:
        Unmasking.registry.pop("sure", None)
    (tmp_path / "broken_rules.py").write_text("1 / 0\n")
    assert "ZeroDivisionError: division" in refused(capsys, "list", "--import", "broken_rules")
    assert "--import .rules: TypeError" in refused(capsys, "list", "--import", ".rules")
    said = refused(capsys, "list", "--import", "no_such_module")
    assert "--import no_such_module: No module named 'no_such_module'." in said


def test_a_percent_sign_ends_a_help(monkeypatch):
    member = families.Member("x", "X", "5 % of", (families.Setting("a", "int", "1", "9 % of"),))
    monkeypatch.setattr(
        "hf_ddistill.cli.options.member_flags.members", lambda family: {"law_matching": member}
    )
    parser = argparse.ArgumentParser()
    MemberFlags("objective", "objective", lambda _: None).add_to(parser, "law_matching")
    assert "9 % of" in parser.format_help()


def test_an_objective_of_flags_is_not_the_one_of_python():
    text = objective("--objective", "ecd", "--objective.top_k", "8")
    made = members.member(Objective, "--objective", text)
    assert made == Objective.from_config({"type": "ecd", "top_k": 8})
