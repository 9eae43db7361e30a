"""The contract of every judge: found by its id, runs on its example, says what it needs."""

from __future__ import annotations

import importlib
import json
import math

import pytest
import torch
from training_runs import tiny

from hf_ddistill.cli.main import main
from hf_ddistill.evaluation import (
    DigitsJudge,
    Judge,
    Source,
    TwoSampleJudge,
    digits_classifier,
    two_sample,
)

JUDGES = sorted(Judge.registry)


@pytest.fixture(params=JUDGES)
def kind(request):
    found = Judge.named(request.param)
    for package in found.packages:
        pytest.importorskip(package)
    return found


def test_its_example_cannot_be_judged(kind, monkeypatch):
    # The contract is not of how good they are, which takes hundreds of steps and trees.
    monkeypatch.setattr(digits_classifier, "STEPS", 20)
    monkeypatch.setattr(two_sample, "TREES", 10)
    judge, samples = kind.example()
    figures = judge(samples)
    assert kind.primary in figures
    assert all(value is None or math.isfinite(value) for value in figures.values())
    assert judge(samples) == figures


def test_its_settings_are_no_json(kind):
    judge, _ = kind.example()
    config = json.loads(json.dumps(judge.to_config()))
    assert config["type"] == kind.id and Judge.from_config(config).to_config() == config


@pytest.mark.parametrize("name", JUDGES)
def test_it_does_not_say_what_it_needs(name):
    kind = Judge.named(name)
    assert kind.takes in ("tokens", "texts") and kind.needs().startswith(kind.takes)
    assert bool(kind.packages) == bool(kind.extra)
    assert isinstance(kind.higher_is_better, bool) and kind.__doc__


def test_a_judge_of_texts_takes_a_model_without_a_tokenizer():
    judge, _ = Judge.named("perplexity").example()
    with pytest.raises(ValueError, match="has no tokenizer"):
        judge.suited_to(Source(3))
    assert judge.suited_to(Source(3, writes_text=True)) is judge


def test_a_judge_that_compares_runs_without_real_data():
    with pytest.raises(ValueError, match="'two_sample' compares with real data"):
        TwoSampleJudge().suited_to(Source(2))
    rows = torch.arange(48).view(12, 4) % 2
    assert TwoSampleJudge().suited_to(Source(2, real=rows)).reference is rows


def test_a_missing_package_is_a_traceback(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs rdkit, fcd: pip install 'hf_ddistill\[molecules"):
        Judge.from_config("molecules").suited_to(Source(9, writes_text=True))


def test_the_judge_of_digits_has_not_the_levels_of_the_model():
    with pytest.raises(ValueError, match="images of 8 x 8"):
        DigitsJudge().suited_to(Source(2, shape=(28, 28)))
    assert DigitsJudge().suited_to(Source(4, shape=(8, 8))).levels == 4
    with pytest.raises(ValueError, match="levels=18"):
        DigitsJudge(18)


def test_the_list_of_judges_does_not_say_what_they_need(tmp_path):
    assert main(["list", "judges", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["id"] for row in rows] == JUDGES
    needs = {row["id"]: row["needs"] for row in rows}
    assert needs["two_sample"] == "tokens, real data" and "[molecules]" in needs["molecules"]


NEW = '''
"""A judge in a file of its own."""
from dataclasses import dataclass
from typing import ClassVar
import torch
from hf_ddistill.evaluation import Judge

@dataclass(frozen=True)
class LongestRun(Judge):
    """The longest run of one token, mean over samples."""
    primary: ClassVar[str] = "run"
    higher_is_better: ClassVar[bool] = False
    least: int = 1

    def __call__(self, samples):
        same = torch.stack([row[1:] == row[:-1] for row in samples]).cumsum(1)
        return {"run": max(self.least, float(same.amax(1).double().mean()))}

    @classmethod
    def example(cls):
        return cls(), torch.tensor([[0, 0, 1]])
'''


def test_a_judge_in_a_new_file_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Judge, "registry", dict(Judge.registry))
    (tmp_path / "judge_of_runs.py").write_text(NEW)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("judge_of_runs")
    tiny().save_pretrained(tmp_path / "model")
    file = tmp_path / "rows.json"
    given = ["--nfe", "1", "--samples", "4", "--json", str(file), "--overwrite"]
    for judge, least in (("longest_run", 1), ('{"type": "longest_run", "least": 99}', 99)):
        assert main(["evaluate", str(tmp_path / "model"), "--judge", judge, *given]) == 0
        (row,) = json.loads(file.read_text())["rows"]
        assert least <= row["run"] <= 99 and row["nfe"] == 1
    assert main(["list", "judges", "--json", str(file), "--overwrite"]) == 0
    assert "longest_run" in {row["id"] for row in json.loads(file.read_text())["rows"]}
