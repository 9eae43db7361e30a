"""`--config FILE.yaml`: a file's options are checked as flags are, and never end in a traceback."""

from __future__ import annotations

import argparse
import random

import pytest
import yaml
from cli_runs import refused

from hf_ddistill.cli import main
from hf_ddistill.cli.parser import build_parser, read

WHOLE = {
    "teacher": {
        "data": "digits",
        "output": "out",
        "steps": 10,
        "learning_rate": 1e-3,
        "process": "absorbing",
        "token_shape": [8, 8],
        "cpu": True,
        "report_to": ["none"],
    },
    "distill": {
        "teacher": ["one", "two"],
        "output": "out",
        "data": "a.txt",
        "objective": {
            "type": "opdlm",
            "rollouts": {"unmasking": {"type": "factor", "factor": 2.0}, "temperature": 0.5},
        },
        "student_steps": 4,
        "auxiliary-beta1": 0.5,
        "bf16": False,
    },
    "sample": {"model": "m", "steps": 2, "prompt": "a b", "scheduler": "JumpScheduler"},
    "evaluate": {"model": "m", "nfe": [1, 2], "samples": 10, "judge": "digits", "json": "r.json"},
    "exact": {"problem": "digits", "objective": ["ecd"], "seeds": [0, 1], "limit": True},
    "diagnose": {"process": "uniform", "vocab_size": 9, "times": [0.1, 0.5], "plot": "a.png"},
    "list": {"family": "processes"},
}
#: What people, editors and merges leave in such files.
JUNK = ["", "null", "~", "true", "no", '"no"', "0", "-1", "3.5", "1e9", "1e400", ".nan", ".inf"]
JUNK += [
    "1000000000",
    "9" * 400,
    "0x" + "f" * 4000,
    "abc",
    "[]",
    "{}",
    "[1, two]",
    "[[1]]",
    "{a: 1}",
]
JUNK += ["2020-01-01", "2020-99-99", "{", "[", '"', "*x", "&x [*x]", "!!python/object:os.system x"]
JUNK += ["!!set {a}", "!!map [1]", "!!binary x", "? x", "<<: 1", "- 1", "|\n  a", "%", "\t", "1:30"]
JUNK += ["{type: [1]}", "'{\"type\": 5}'", "'{'", "'[1]'", "é", "--cpu", "[-1, --x]", "a: b: c"]


def parsed(command, file, *flags):
    """The namespace, or the sentence that `main` would print."""
    try:
        return read(build_parser([command]), [command, "--config", str(file), *flags])
    except ValueError as error:
        return f"hf-ddistill: {error}"
    except SystemExit as stop:
        assert stop.code == 2
        return None


def mutated(text, rng):
    """The file after one to three slips."""
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        row = rng.randrange(len(lines))
        slip = rng.randrange(7)
        if slip <= 2:  # another value
            key = lines[row].partition(":")[0]
            lines[row] = f"{key}: {rng.choice(JUNK)}"
        elif slip == 3:
            lines[row] = rng.choice(JUNK)
        elif slip == 4:
            lines.insert(row, rng.choice(lines))
        elif slip == 5:
            at = rng.randrange(len(lines[row]) + 1)
            lines[row] = (
                lines[row][:at]
                + chr(rng.choice([0, 9, 58, 91, 123, 233, 8232]))
                + lines[row][at + 1 :]
            )
        else:
            lines[row] = " " * rng.randint(0, 3) + lines[row].lstrip()
        text = "\n".join(lines)
    return text


@pytest.mark.parametrize("command", WHOLE)
def test_a_mutated_file_is_read_or_refused_in_one_sentence(command, tmp_path, capsys):
    rng, file, refused = random.Random(f"yaml {command}"), tmp_path / "run.yaml", 0
    whole = yaml.safe_dump(WHOLE[command])
    parser = build_parser([command])
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    checks = {a.dest: a for a in action.choices[command]._actions}
    for _ in range(70):
        text = mutated(whole, rng)
        raw = text.encode() if rng.random() < 0.95 else text.encode() + b"\xe9\xff"
        file.write_bytes(raw)
        found = parsed(command, file)
        said = capsys.readouterr().err.strip()
        if isinstance(found, dict):
            # Whatever is in the namespace is what a flag could have put there.
            for name, value in found.items():
                kind = checks.get(name)
                if kind is not None and kind.nargs == 0 and name != "help":
                    assert isinstance(value, bool) or value is kind.default is None, (text, name)
                if name in ("steps", "samples", "vocab_size") and value is not None:
                    values = value if isinstance(value, list | tuple) else [value]
                    assert all(v > 0 and not isinstance(v, bool) for v in values), (text, value)
        else:
            refused += 1
            assert "Traceback" not in said and (found or said), text
    assert refused > 10  # the mutations are of a kind that has to be refused


VALUES = {  # of a line of YAML: what it becomes, or a word of the sentence that refuses it
    ("teacher", "steps: 0"): "at least 1, got 0",
    ("teacher", "steps: abc"): "must be an integer, got 'abc'",
    ("teacher", "steps: true"): "got true",
    ("teacher", "steps: null"): "got nothing",
    ("teacher", "steps: [3]"): "takes one value, got a list",
    ("teacher", "steps: 2.5"): "must be an integer, got '2.5'",
    ("teacher", "learning_rate: false"): "got false",
    ("teacher", "learning-rate: true"): "got true",
    ("teacher", "learning_rate: .nan"): "above 0, got nan",
    ("teacher", "learning_rate: 1e-4"): {"learning_rate": 1e-4},
    ("teacher", 'cpu: "no"'): "must be true or false, got str 'no'",
    ("teacher", "cpu: no"): {"cpu": False},
    ("teacher", "cpu: 1"): "must be true or false",
    ("teacher", "token_shape: 8"): {"token_shape": [8]},
    ("teacher", "token_shape: [8, x]"): "must be an integer, got 'x'",
    ("teacher", "token_shape: []"): "an empty list",
    ("teacher", "position_embedding: absolute"): "invalid choice",
    ("teacher", "max_length: null"): {"max_length": None},
    ("teacher", "steps: 5\nsteps: 6"): "twice",
    ("teacher", "learning-rate: 1\nlearning_rate: 2"): "twice",
    ("teacher", "config: other.yaml"): "Unknown option",
    ("teacher", "steps: 5: 6"): "is no YAML",
    ("teacher", "- steps"): "must hold a mapping of options, got a list",
    ("distill", "teacher: my_teacher"): {"teacher": ["my_teacher"]},
    ("distill", "teacher: [one, two]"): {"teacher": ["one", "two"]},
    ("distill", "teacher: [one, [two]]"): "got a list",
    ("distill", "student_steps: 1000000000"): "at most 100,000, got 1,000,000,000",
    ("distill", "objective: {type: ecd, top_k: 3}"): {"objective": '{"type": "ecd", "top_k": 3}'},
    ("distill", "objective: '[1]'"): "a JSON mapping, got a JSON list",
    ("distill", "auxiliary_updates: 8"): {"auxiliary_updates": 8},
    ("list", "family: process"): "invalid choice",
    ("exact", "seeds: [0, -1]"): "at least 0, got -1",
}


@pytest.mark.parametrize(("command", "line"), VALUES, ids=lambda value: value.replace("\n", "; "))
def test_a_value_is_read_as_its_flag_reads_it(command, line, tmp_path):
    file, expected = tmp_path / "run.yaml", VALUES[command, line]
    file.write_text(line)
    given = {"teacher": ["--data", "digits", "--output", "x"], "list": [], "exact": []}
    given["distill"] = ["--data", "digits", "--output", "x"]
    given["distill"] += [] if line.startswith("teacher") else ["--teacher", "t"]
    found = parsed(command, file, *given[command])
    if isinstance(expected, str):
        assert isinstance(found, str) and expected in found and str(file) in found, found
    else:
        assert {name: found[name] for name in expected} == expected


def test_a_flag_overrides_the_file_and_a_word_without_a_flag_too(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: in_the_file\ncount: 3\nsteps: 2\n")
    found = parsed("sample", file, "--count", "5")
    assert (found["model"], found["count"], found["steps"]) == ("in_the_file", 5, 2)
    assert parsed("sample", file, "given")["model"] == "given"


@pytest.mark.parametrize("content", [b"steps: 3 # caf\xe9", b"\x00", b"a: " + b"[" * 3000])
def test_a_file_that_is_no_text_or_no_yaml_is_refused(content, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    assert main(["sample", "m", "--config", str(file)]) == 2
    said = capsys.readouterr().err.strip()
    assert str(file) in said and "\n" not in said
    assert main(["sample", "m", "--config", str(tmp_path)]) == 2
    assert "not a file" in capsys.readouterr().err


def test_key_that_resembles_nothing_is_refused_without_the_names_that_there_are(capsys, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("xyzzy: 3\n")
    said = refused(capsys, "teacher", "--config", file)
    assert f"Unknown option in {file}: xyzzy; there are: " in said
    assert "batch_size" in said and "learning_rate" in said
    file.write_text("learning_rat: 3\n")
    assert "learning_rat (did you mean learning_rate?)" in refused(
        capsys, "teacher", "--config", file
    )
