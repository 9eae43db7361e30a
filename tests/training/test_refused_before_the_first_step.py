"""What a run's settings go against is said when its trainer is made, and not by its first step."""

from __future__ import annotations

import pytest
from batch_runs import ROWS, blocks, language_model
from training_runs import distilling, tiny

from hf_ddistill.denoisers import Guided
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Uniform
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer


def flat():
    model = tiny(vocab_size=2, mask_token_id=None)
    as_denoiser(model, Diffusion(Uniform(2)))
    return model


def mmd(**settings):
    return {"objective": {"type": "representation_mmd", **settings}}


def lsd(**settings):
    return {"objective": {"type": "lsd", **settings}}


def guided():
    return Guided(as_denoiser(tiny(num_classes=10)), 1.5)


REFUSED = {
    "guidance by classes that the data lack": (
        lambda: {"teacher": guided(), "model": tiny(1, num_classes=10)},
        "guided by 1.5, needs a column class_labels, and the data have input_ids",
    ),
    "features of a layer that is not there": (
        lambda: mmd(layer=99),
        "gives the hidden states of 1 layers, counted from 0; layer=99 is none of them",
    ),
    "features counted from behind": (lambda: mmd(layer=-1), "layer is counted from 0, got -1"),
    "more calls than there are numbers to learn": (
        lambda: lsd() | {"student_steps": 100},
        "'lsd' has numbers for 64 calls, got 100",
    ),
    "one call, which has no number": (
        lambda: lsd() | {"student_steps": 1},
        "learns numbers of the calls before the last one, and the student has one call",
    ),
    "a teacher with no more calls than its student": (
        lambda: lsd(teacher_steps=4) | {"student_steps": 4},
        "teacher_steps=4 are no more than its 4 calls",
    ),
    "rounds of a network that stays": (
        lambda: lsd() | {"rounds": 3},
        "of 3 rounds each would start from what the last one started from",
    ),
    "rounds without a teacher": (
        lambda: {"objective": "alpha", "rounds": 3},
        "rounds=3 makes the student its own teacher, and objective 'alpha' asks none",
    ),
    "steps that are shorter than any size that is told": (
        lambda: {"objective": "fs_dfm", "teacher": flat(), "noise_dim": 3, "student_steps": 16},
        "down to 1 / 4 with noise_dim=3, and a step of 16 calls is shorter: give noise_dim=5",
    ),
    "sizes below the earliest time": (
        lambda: {"objective": "fs_dfm", "teacher": flat(), "noise_dim": 11},
        "knows sizes down to 2.-9 of a step, .* give noise_dim=10 at most",
    ),
    "rate of networks that there are none of": (
        lambda: {"auxiliary_learning_rate": 0.1},
        "auxiliary_learning_rate=0.1 is of networks that are trained beside the student, and "
        "objective 'ecd' trains none",
    ),
    "turns of networks that there are none of": (
        lambda: {"auxiliary_updates": 2},
        "auxiliary_updates=2 is of networks that are trained beside the student",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_told_only_by_the_first_step(tmp_path, settings, message):
    place = tmp_path / "student"
    with pytest.raises(ValueError, match=message) as refusal:
        distilling(place, **settings())
    assert "\n" not in str(refusal.value) and not place.exists()


def test_sizes_that_are_told_are_all_trained(tmp_path):
    given = {"objective": "fs_dfm", "teacher": flat(), "noise_dim": 10, "student_steps": 512}
    distilling(tmp_path, **given, max_steps=1, per_device_train_batch_size=64).train()


BLOCKS = {
    "a rollout as long as the window": (
        {"type": "opdlm", "rollouts": {"tokens": 64}},
        "rollouts.tokens=64 leaves no room for a prompt in the 64 tokens that the model reads",
    ),
    "decoded parts that make up no block": (
        {"type": "opdlm", "rollouts": {"tokens": 8, "block_size": 3}},
        "rollouts.block_size=3 must divide the block of 4 tokens",
    ),
    "blocks that are longer than the window": (
        {"type": "d2f", "block_size": 65},
        "block_size=65 of objective 'd2f' is more than the 64 tokens that the model reads",
    ),
}


@pytest.mark.parametrize(("objective", "message"), BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks_that_do_not_fit_are_told_only_by_the_first_step(tmp_path, objective, message):
    place = tmp_path / "student"
    teacher = language_model(1) if objective["type"] == "opdlm" else blocks(1)
    with pytest.raises(ValueError, match=message):
        DiscreteDistillationTrainer(
            blocks(0),
            teacher,
            objective,
            DiscreteDistillationConfig(str(place), use_cpu=True, report_to=[]),
            train_dataset=ROWS,
        )
    assert not place.exists()


@pytest.mark.parametrize("given", [64, 100])
def test_a_training_on_nothing_runs_to_its_end(tmp_path, given):
    place = tmp_path / "student"
    with pytest.raises(ValueError, match=f"nothing to train on .* prompt_length={given}"):
        distilling(place, prompt_length=given)
    rows = [{"input_ids": [0, 1] * 32, "labels": [-100] * 64}] * 4
    with pytest.raises(ValueError, match="nothing to train on in the first 4 rows"):
        distilling(place, data=rows)
    assert not place.exists()
    distilling(place, data=[*rows, {"input_ids": [0, 1] * 32, "labels": [-100] * 63 + [1]}])
