"""What a trainer is given of another kind than it takes is refused in one sentence."""

from __future__ import annotations

import jaxtyping
import pytest
from training_runs import rows, tiny
from transformers import TrainingArguments

from hf_ddistill.denoisers import Ensemble, Guided, Proxy, Sharpened
from hf_ddistill.models import as_denoiser
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


@pytest.fixture
def as_users_have_it():
    """Without the checks of annotations, which say so in their own way."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_a_model_in_the_place_of_a_denoiser_is_a_traceback(as_users_have_it):
    model, denoiser = tiny(), as_denoiser(tiny())
    for make in (
        lambda: Guided(model, 1.0),
        lambda: Ensemble((model, model)),
        lambda: Proxy(model, model, model),
        lambda: Sharpened(model),
    ):
        with pytest.raises(ValueError, match="must be a Denoiser, got DDiT"):
            make()
    for make in (lambda: Guided(denoiser, "x"), lambda: Proxy(denoiser, denoiser, denoiser, "x")):
        with pytest.raises(ValueError, match="must be a number, got 'x'"):
            make()
