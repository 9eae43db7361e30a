"""The path of a folder names a model wherever its string does."""

from __future__ import annotations

import json

import pytest
from batch_runs import ROWS, blocks, language_model
from rollout_settings import decoding
from training_runs import distilling, teaching, tiny

from hf_ddistill.evaluation import GenerativePerplexity
from hf_ddistill.evaluation.molecule_judge import MoleculeJudge
from hf_ddistill.evaluation.perplexity_judge import PerplexityJudge
from hf_ddistill.models import as_denoiser
from hf_ddistill.training.teacher_models import teacher_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "denoiser"
    as_denoiser(model := tiny())
    model.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def causal(folder):
    language_model().save_pretrained(folder.with_name("causal"))
    return folder.with_name("causal")


def test_a_path_is_no_teacher(folder, tmp_path):
    one = distilling(tmp_path, folder)
    assert one.is_copy and teacher_name(one.teacher) == "denoiser"
    assert len(distilling(tmp_path, [folder, str(folder)], model=tiny()).teacher.networks()) == 2


def test_a_path_is_no_student(folder, tmp_path):
    assert isinstance(distilling(tmp_path, model=folder).model, type(tiny()))
    assert isinstance(teaching(tmp_path, folder).model, type(tiny()))
    # Loaded twice: two networks.
    distilling(tmp_path, folder, model=folder)


def test_a_path_hides_what_a_teacher_reads(folder, causal, tmp_path):
    objective = decoding("opdlm", tokens=8)
    distilling(tmp_path, causal, ROWS, model=blocks(0), objective=objective)
    with pytest.raises(ValueError, match="reads in both directions"):
        distilling(tmp_path, folder, ROWS, model=blocks(0), objective=objective)
    with pytest.raises(ValueError, match="a causal language model reads none"):
        distilling(tmp_path, causal)


def test_a_path_is_no_judge(causal, tmp_path):
    assert GenerativePerplexity(causal, tokenizer=object()).model.config.vocab_size == 12
    judge = PerplexityJudge(causal)
    assert json.loads(json.dumps(judge.to_config()))["model"] == str(causal)
    (file := tmp_path / "molecules.txt").write_text("CC CO")
    assert MoleculeJudge(training=file) == MoleculeJudge(training=str(file))
