"""A run that is stopped anywhere and resumed is bit-equal to one that was not."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from training_runs import (
    At,
    differing,
    distilling,
    matching,
    probe,
    rows,
    stop_after,
    teaching,
    tiny,
    weights,
)

from hf_ddistill.linalg.keyed_noise import keyed_generator

# Everything that a run remembers: two memories of the objective, and a teacher that changes.
OBJECTIVE = {"type": "ecd", "times": {"type": "adaptive_times"}}
ON_A_GRID = OBJECTIVE | {"times": {"type": "adaptive_times", "grid": True}}
DROPOUT = {"dropout": 0.2, "attention_dropout": 0.2}
STEPS = 6


def run(folder, accumulation=1, *callbacks, objective=OBJECTIVE, **settings):
    """A trainer of three rounds with two steps each, in epochs of two and a half steps."""
    return distilling(
        folder,
        tiny(time_conditioning=True, **DROPOUT),
        rows(20 * accumulation),
        objective=objective,
        rounds=3,
        student_steps=2,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.01,
        callbacks=list(callbacks),
        **settings,
    )


def everything(trainer):
    """All that a run ends with."""
    parts = {
        "student": weights(trainer.model),
        "mean": trainer.average.mean,
        "teacher": weights(trainer.teacher_model),
        "memory": trainer.memory.tensors,
        "moments": {
            f"{i}.{key}": value
            for i, moments in trainer.optimizer.state_dict()["state"].items()
            for key, value in moments.items()
        },
    }
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What runs end with that nothing stopped, for one and two micro batches a step."""
    ended = {}
    for accumulation in (1, 2):
        torch.manual_seed(0)
        trainer = run(tmp_path_factory.mktemp("whole"), accumulation)
        trainer.train()
        ended[accumulation] = everything(trainer)
    return ended


# The second and the fourth step are the last of their rounds, the third one ends an epoch.
@pytest.mark.parametrize(
    ("accumulation", "step"),
    [
        *((1, 1), (2, 2)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 2), (1, 3), (1, 4), (2, 5))),
    ],
)
def test_resumed_run_is_bit_equal(tmp_path, uninterrupted, accumulation, step):
    stopped = run(tmp_path, accumulation, stop_after(step))
    stopped.train()
    assert stopped.state.global_step == step
    assert len(differing(everything(stopped), uninterrupted[accumulation])) > 20

    torch.manual_seed(step)  # another process stands elsewhere in its own numbers
    resumed = run(tmp_path, accumulation)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert resumed.state.global_step == STEPS
    assert differing(everything(resumed), uninterrupted[accumulation]) == []


def beside_an_auxiliary(folder, *callbacks):
    """Two steps of the auxiliary alone, then the student in every second one."""
    return distilling(
        folder,
        tiny(time_conditioning=True, **DROPOUT),
        rows(40),
        objective=matching(),
        auxiliary_warmup_steps=2,
        auxiliary_updates=2,
        auxiliary_learning_rate=0.02,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize(
    "step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 5))]
)
@pytest.mark.slow
def test_resumed_run_with_an_auxiliary_is_bit_equal(tmp_path, step):
    def all_of(trainer):
        auxiliary = weights(trainer.auxiliaries.models["auxiliary"])
        return everything(trainer) | {f"auxiliary.{name}": v for name, v in auxiliary.items()}

    torch.manual_seed(0)
    whole = beside_an_auxiliary(tmp_path / "whole")
    whole.train()
    torch.manual_seed(0)
    stopped = beside_an_auxiliary(tmp_path, stop_after(step))
    stopped.train()
    assert differing(
        weights(stopped.auxiliaries.models["auxiliary"]),
        weights(whole.auxiliaries.models["auxiliary"]),
    )

    torch.manual_seed(step)
    resumed = beside_an_auxiliary(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS
    assert differing(all_of(resumed), all_of(whole)) == []


@pytest.mark.slow
def test_run_that_was_killed_between_micro_batches_is_bit_equal(tmp_path, uninterrupted):
    def kill(state, control):
        if state.global_step == 3:
            raise KeyboardInterrupt

    settings = {"save_strategy": "steps", "save_steps": 2}
    killed = run(tmp_path, 2, At("on_substep_end", kill), **settings)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = run(tmp_path, 2, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert differing(everything(resumed), uninterrupted[2]) == []


def test_interrupted_step_is_drawn_again_with_the_same_noise_by_the_same_trainer(tmp_path):
    objective = probe()

    def kill(state, control):
        if state.global_step == 1 and len(objective.seen) == 3:
            raise KeyboardInterrupt

    settings = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = teaching(
        tmp_path, objective=objective, callbacks=[At("on_substep_end", kill)], **settings
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    states = [x_t for _, x_t, _ in objective.seen]
    # Two micro batches of the first step, one and then both of the second, two of the third.
    assert len(states) == 7
    assert torch.equal(states[2], states[3])


@pytest.mark.slow
def test_times_on_the_grid_follow_the_rounds_and_resume(tmp_path):
    shapes = []

    def look(state, control):
        shapes.append(tuple(whole.memory.tensors["adaptive_times.squares"].shape))

    whole = run(tmp_path / "whole", objective=ON_A_GRID)
    # Before the last step of a round is counted, or its memory is gone.
    whole.add_callback(At("on_optimizer_step", look))
    whole.train()
    assert shapes == [(8, 8), (8, 8), (4, 8), (4, 8), (2, 8), (2, 8)]

    run(tmp_path, 1, stop_after(3), objective=ON_A_GRID).train()
    resumed = run(tmp_path, objective=ON_A_GRID)
    resumed.train(resume_from_checkpoint=True)
    assert differing(everything(resumed), everything(whole)) == []


@pytest.mark.slow
def test_measured_figures_survive_a_resume(tmp_path):
    def trainer(*callbacks):
        return teaching(
            tmp_path,
            eval_dataset=rows(8, held_out=True),
            num_eval_samples=2,
            sample_steps=1,
            sample_metrics=lambda samples: {"ink": samples.double().mean()},
            eval_strategy="steps",
            eval_steps=1,
            max_steps=2,
            callbacks=list(callbacks),
        )

    stopped = trainer(stop_after(1))
    stopped.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert [row["step"] for row in resumed.measured] == [1, 2]
    assert resumed.measured[0] == stopped.measured[0]


def test_checkpoint_without_its_run_state_is_an_error(tmp_path):
    teaching(tmp_path, callbacks=[stop_after(1)]).train()
    next((tmp_path / "checkpoint-1").glob("run_state*")).unlink()
    with pytest.raises(ValueError, match="run_state.safetensors is missing"):
        teaching(tmp_path).train(resume_from_checkpoint=True)


def test_same_key_gives_the_same_noise_and_any_other_key_another():
    def draw(*key):
        return tuple(torch.rand(8, generator=keyed_generator(*key)).tolist())

    keys = list(itertools.product((0, 1, 12), (0, 1, 12), (0, 1, 12), (0, 1)))
    draws = {key: draw(*key) for key in keys}
    assert all(draw(*key) == drawn for key, drawn in draws.items())
    assert len(set(draws.values())) == len(keys)


def test_noise_is_keyed_by_step_and_micro_batch(tmp_path):
    objective = probe()
    data = rows(1) * 8
    teaching(
        tmp_path,
        data=data,
        objective=objective,
        max_steps=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
    ).train()
    states = [json.dumps(x_t.tolist()) for _, x_t, _ in objective.seen]
    assert len(states) == len(set(states)) == 6
    for number, (x_0, x_t, step) in enumerate(objective.seen):
        generator = keyed_generator(42, number // 2, number % 2, 0)
        again = step.diffusion.corrupt(x_0, torch.tensor([0.5]), generator)
        assert torch.equal(again, x_t)
