"""Two processes train a teacher and distil it: run by torchrun, see test_training_distributed."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig
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
from transformers import AutoModelForMaskedLM

ADAPTERS = LoraConfig(r=2, target_modules=["qkv", "up"], lora_dropout=0.1)
ECD = {"type": "ecd", "times": {"type": "adaptive_times"}}
LAWS = {"type": "law_matching", "gradient": "policy", "horizon": "rollout", "maskings": 2}
SETTINGS = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.02}


def gathered(value):
    """What each process has, in their order."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def check_world(trainer):
    assert trainer.accelerator.num_processes == trainer.args.world_size == 2
    assert str(trainer.args.parallel_mode).endswith("DISTRIBUTED")


def check_equal(trainer):
    """Weights and their mean have moved, and are the same in both processes."""
    mine = weights(trainer.model) | {f"mean.{n}": v for n, v in trainer.average.mean.items()}
    one, other = gathered(mine)
    assert not differing(one, other)
    assert differing(one, weights(tiny()))


def check_noise(folder):
    """Equal rows, but noise that each process draws for itself."""
    objective = probe()
    trainer = teaching(folder, data=rows(1) * 16, objective=objective, **SETTINGS)
    check_world(trainer)
    trainer.train()
    states = [x_t for _, x_t, _ in objective.seen]
    one, other = gathered(states)
    assert len(one) == len(other) == 4
    assert not any(torch.equal(a, b) for a in one for b in other)


def teach(folder):
    """A teacher, with figures of samples that both processes know, saved by one of them."""
    written = []
    trainer = teaching(
        folder,
        data=rows(32),
        eval_dataset=rows(8, held_out=True),
        num_eval_samples=4,
        sample_steps=2,
        sample_metrics=lambda samples: {"ink": samples.double().mean()},
        metric_for_best_model="ink",
        eval_strategy="steps",
        eval_steps=2,
        **SETTINGS,
    )
    trainer.add_callback(At("on_step_end", lambda *_: written.append(1)))
    check_world(trainer)
    trainer.train()
    check_equal(trainer)
    one, other = gathered([row["ink"] for row in trainer.measured])
    assert one == other and len(one) == 2
    trainer.save_model(str(folder / "teacher"))
    dist.barrier()
    return folder / "teacher"


def distil(folder, teacher, *callbacks):
    """A run of two rounds whose objective remembers what its own process has seen."""
    trainer = distilling(
        folder,
        AutoModelForMaskedLM.from_pretrained(teacher),
        rows(32),
        model=tiny(dropout=0.2),
        objective=ECD,
        rounds=2,
        student_steps=2,
        callbacks=list(callbacks),
        **SETTINGS,
    )
    check_world(trainer)
    return trainer


def distil_beside_an_auxiliary(folder, teacher, objective, *callbacks, **settings):
    """One step of the auxiliary alone, then the student in every second one."""
    trainer = distilling(
        folder,
        teacher,
        rows(32),
        objective=objective,
        auxiliary_warmup_steps=1,
        auxiliary_updates=2,
        gradient_accumulation_steps=2,
        collapse_share=0,
        callbacks=list(callbacks),
        **SETTINGS | {"max_steps": 6} | settings,
    )
    check_world(trainer)
    return trainer


def check_auxiliary(folder, teacher, objective):
    """Both networks stay the same in both processes, and a resumed run ends where it would have."""
    seen = []

    def look(state, control):
        seen.append(gathered(weights(whole.model) | trained(whole)))

    def trained(trainer):
        named = weights(trainer.auxiliaries.models["auxiliary"]).items()
        return {f"auxiliary.{n}": v for n, v in named}

    whole = distil_beside_an_auxiliary(folder / "whole", teacher, objective)
    seen.append(gathered(weights(whole.model) | trained(whole)))
    whole.add_callback(At("on_step_end", look))
    whole.train()
    assert not any(differing(one, other) for one, other in seen)
    for step, (before, after) in enumerate(zip(seen[:-1], seen[1:], strict=True), 1):
        moved = differing(before[0], after[0])
        assert any(name.startswith("auxiliary") for name in moved)
        assert any(not name.startswith("auxiliary") for name in moved) == (step in (3, 5))

    distil_beside_an_auxiliary(folder / "stopped", teacher, objective, stop_after(4)).train()
    resumed = distil_beside_an_auxiliary(folder / "stopped", teacher, objective)
    dist.barrier()
    resumed.train(resume_from_checkpoint=str(folder / "stopped" / "checkpoint-4"))
    assert not differing(weights(resumed.model) | trained(resumed), seen[-1][0])
    # Copies of a teacher that another trainer has prepared are wrapped all the same.
    again = distil_beside_an_auxiliary(folder / "again", teacher, objective)
    assert hasattr(again.auxiliaries.networks["auxiliary"].network.model, "module")


def main(folder):
    check_noise(folder)
    teacher = teach(folder)
    whole = distil(folder / "whole", teacher)
    whole.train()
    check_equal(whole)
    memories = gathered(whole.memory.tensors)
    assert differing(*memories)

    distil(folder / "stopped", teacher, stop_after(3)).train()
    resumed = distil(folder / "stopped", teacher)
    dist.barrier()
    resumed.train(resume_from_checkpoint=str(folder / "stopped" / "checkpoint-3"))
    assert not differing(weights(resumed.model), weights(whole.model))
    assert not differing(resumed.average.mean, whole.average.mean)
    assert not differing(resumed.memory.tensors, whole.memory.tensors)
    assert not differing(weights(resumed.teacher_model), weights(whole.teacher_model))

    adapted = distil_adapters(folder / "adapters", teacher)
    adapted.train()
    one, other = gathered(weights(adapted.model))
    assert not differing(one, other)
    toy = matching()
    check_auxiliary(folder / "auxiliary", AutoModelForMaskedLM.from_pretrained(teacher), toy)
    one, other = gathered([losses["auxiliary"] for _, losses, _ in toy.seen])
    assert len(one) == len(other) and not any(map(torch.equal, one, other))
    # Its calls of the student differ in number between processes.
    check_auxiliary(folder / "laws", AutoModelForMaskedLM.from_pretrained(teacher), LAWS)
    print(f"process {dist.get_rank()} of {dist.get_world_size()} is done")
    # A reducer that outlives its process group waits for gloo's thread, which waits for the
    # interpreter's lock: what holds one goes first, and nothing is under way at the end.
    del whole, resumed, adapted
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def distil_adapters(folder, teacher):
    """Adapters over the teacher itself: the base is called beside the wrapped student."""
    base = AutoModelForMaskedLM.from_pretrained(teacher)
    return distilling(folder, None, rows(32), model=base, peft_config=ADAPTERS, **SETTINGS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
