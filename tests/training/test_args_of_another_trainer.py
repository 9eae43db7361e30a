"""What a trainer is given of another kind than it takes is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest
from training_runs import rows, tiny
from transformers import TrainingArguments

from hf_ddistill.objectives import Objective
from hf_ddistill.training import (
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)


@pytest.mark.parametrize("config", [DiscreteDiffusionConfig, TrainingArguments])
def test_settings_that_know_of_no_student_are_a_traceback(tmp_path, config):
    args = config(str(tmp_path), use_cpu=True, report_to=[])
    said = f"must be a DiscreteDistillationConfig, got {config.__name__}"
    with pytest.raises(ValueError, match=said):
        DiscreteDistillationTrainer(None, tiny(), "ecd", args, train_dataset=rows(8))


@pytest.mark.parametrize("config", [DiscreteDistillationConfig, TrainingArguments])
def test_settings_of_a_student_are_a_traceback_for_who_has_none(tmp_path, config):
    args = config(str(tmp_path), use_cpu=True, report_to=[])
    said = f"must be a DiscreteDiffusionConfig, got {config.__name__}"
    with pytest.raises(ValueError, match=said):
        DiscreteDiffusionTrainer(tiny(), args, train_dataset=rows(8))


class Mine(DiscreteDistillationConfig):
    """A user's own settings."""


def test_settings_of_a_user_s_own_class_are_refused(tmp_path):
    args = Mine(str(tmp_path), use_cpu=True, report_to=[])
    DiscreteDistillationTrainer(None, tiny(), "ecd", args, train_dataset=rows(8))


def test_what_is_no_objective_has_a_wrong_article():
    with pytest.raises(ValueError, match="An objective is given by its name"):
        Objective.from_config(3)


def test_a_model_in_the_place_of_a_denoiser_is_a_traceback():
    """In a process without the checks of annotations, which say so in their own way."""
    code = (
        "from hf_ddistill.denoisers import Ensemble, Guided, Proxy, Sharpened\n"
        "from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser\n"
        "sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)\n"
        "m = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=3, mask_token_id=2, **sizes))\n"
        "d = as_denoiser(m)\n"
        "for make in (lambda: Guided(m, 1.0), lambda: Ensemble((m, m)), lambda: Proxy(m, m, m),\n"
        "             lambda: Sharpened(m), lambda: Guided(d, 'x'), lambda: Proxy(d, d, d, 'x')):\n"
        "    try:\n"
        "        make()\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert len(said) == 6, done.stdout + done.stderr
    assert all("must be a Denoiser, got DDiT" in each for each in said[:4])
    assert all("must be a number, got 'x'" in each for each in said[4:])
