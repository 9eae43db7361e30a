"""A kind of teacher that the package does not know goes through the trainer as it is."""

import pytest
import torch
from proxy_teacher import Proxy
from training_runs import differing, distilling, matching, stop_after, tiny, weights

from hf_ddistill.models import as_denoiser


def proxy(**settings):
    """Of three models that nobody froze."""
    models = [tiny(seed).train() for seed in range(3)]
    models[1].config.name_or_path = "somebody/tuned"
    return Proxy(*map(as_denoiser, models), **settings)


def test_new_kind_of_teacher_is_frozen_asked_copied_and_named(tmp_path):
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


def test_checkpoint_goes_on_with_the_same_new_teacher_alone(tmp_path):
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
