"""Kinds of teachers go through the trainer as they are, which knows none of them."""

import pytest
import torch
from training_runs import At, differing, distilling, matching, stop_after, tiny, weights

from hf_ddistill.denoisers import Moving, Proxy, Recursive
from hf_ddistill.models import as_denoiser, unwrapped


def proxy(**settings):
    """Of three models that nobody froze."""
    models = [tiny(seed).train() for seed in range(3)]
    models[1].config.name_or_path = "somebody/tuned"
    return Proxy(*map(as_denoiser, models), **settings)


def test_proxy_is_frozen_asked_copied_and_named(tmp_path):
    teacher = proxy(weight=0.5)
    before = [weights(network) for network in teacher.networks()]
    settings = {"objective": matching(), "collapse_share": 0, "bf16": True, "learning_rate": 0.01}
    trainer = distilling(tmp_path, teacher, **settings)
    # Both the student and the auxiliary start as the one that the new kind names.
    assert not differing(weights(trainer.model), before[1])
    assert not differing(weights(trainer.auxiliaries.models["auxiliary"]), before[1])
    dtypes = [[], [], []]
    for seen, network in zip(dtypes, trainer.teacher.networks(), strict=True):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        network.lm_head.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.dtype))
    trainer.train()
    assert all(set(seen) == {torch.bfloat16} for seen in dtypes)
    after = [weights(network) for network in teacher.networks()]
    assert not any(differing(*pair) for pair in zip(before, after, strict=True))
    assert differing(weights(trainer.model), before[1])
    assert differing(weights(trainer.auxiliaries.models["auxiliary"]), before[1])
    trainer.save_model()
    named = "distilled from `a teacher in memory + somebody/tuned + a teacher in memory`"
    assert named in (tmp_path / "README.md").read_text()


def test_checkpoint_goes_on_with_the_same_proxy_alone(tmp_path):
    common = {"objective": "ecd", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    distilling(tmp_path, proxy(), callbacks=[stop_after(1)], **common).train()
    with pytest.raises(ValueError, match="teacher was .*weight=1.0.* and is .*weight=2.0"):
        distilling(tmp_path, proxy(weight=2.0), **common).train(resume_from_checkpoint=True)
    other = proxy()
    with torch.no_grad():
        other.networks()[2].lm_head.weight.add_(1)
    with pytest.raises(ValueError, match="the weights of the teacher are not the same"):
        distilling(tmp_path, other, **common).train(resume_from_checkpoint=True)
    trainer = distilling(tmp_path, proxy(), **common)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2


def test_moving_teacher_ends_as_the_teacher_and_goes_on_where_it_was(tmp_path):
    def run(folder, steps, **settings):
        teacher = Moving(as_denoiser(tiny(1)), start=0.2, pace=1.0)
        return distilling(
            folder, teacher, objective="ecd", max_steps=steps, learning_rate=0.01, **settings
        )

    kept = {"save_strategy": "steps", "save_steps": 2}
    whole = run(tmp_path / "whole", 4, **kept)
    whole.train()
    shares = whole.memory.tensors["moving_teacher.share"]
    # Four steps at progress 0, 1/4, 1/2, 3/4; faster than the line, as the student comes near.
    assert 0.2 + 0.8 * 0.75 < float(shares) < 1
    run(tmp_path / "cut", 4, callbacks=[stop_after(2)], **kept).train()
    again = run(tmp_path / "cut", 4, **kept)
    again.train(resume_from_checkpoint=True)
    assert not differing(weights(again.model), weights(whole.model))
    assert torch.equal(again.memory.tensors["moving_teacher.share"], shares)


def test_moving_teacher_of_a_student_with_noise_is_refused(tmp_path):
    with pytest.raises(ValueError, match="A member of a blend takes noise"):
        distilling(tmp_path, Moving(as_denoiser(tiny(1))), noise_dim=2)


def test_latest_takes_on_the_student_and_the_anchor_stays(tmp_path):
    teacher = Recursive.of(as_denoiser(tiny(1)), 0.25)
    anchor, latest = (weights(network) for network in teacher.networks())
    assert not differing(anchor, latest)
    settings = {"rounds": 2, "max_steps": 4, "learning_rate": 0.01, "ema_decay": 0.0}
    trainer, halfway = distilling(tmp_path, teacher, **settings), {}

    def look(state, control):
        if state.global_step == 2:
            halfway.update(weights(trainer.model))

    trainer.add_callback(At("on_step_end", look))
    trainer.train()
    now = [weights(unwrapped(network)) for network in trainer.teacher.networks()]
    assert not differing(now[0], anchor) and not differing(now[1], halfway)
    assert differing(now[1], anchor)
