"""Two processes distil beside an auxiliary, with whole weights and with weights that FSDP2 shards:
run by torchrun, see test_training_distributed.

accelerate shards on a CPU what it takes for a GPU: it has no FSDP for processes of CPUs, and torch
has one."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import training_runs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from training_runs import distilling, rows, stop_after, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.hub import load_model
from hf_ddistill.training import DiscreteDistillationTrainer
from hf_ddistill.training.sharding import reshard, whole

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
#: Processes decode in different numbers of calls.
UNMASKING = {"type": "threshold", "threshold": 0.2}
CAUSAL = {"type": "causal_law_matching", "rollouts": {"tokens": 8, "unmasking": UNMASKING}}
SETTINGS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "adam_epsilon": 1e-3,
    "student_steps": 4,
    "ema_decay": 0.9,
    "auxiliary_warmup_steps": 1,
    "auxiliary_lag": 0.1,
    "logging_steps": 1,
}


def lora():
    return LoraConfig(r=2, target_modules="all-linear")


def adapters():
    base = tiny(num_hidden_layers=2)
    return {"model": base, "teacher": None, "peft_config": lora(), "noise_dim": 4}


def blocks():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=12, max_position_embeddings=96, **sizes, **heads)
    base, _ = to_block_diffusion(LlamaForCausalLM(config), mask_token_id=11, block_size=4)
    return {"model": base, "teacher": None, "peft_config": lora()}


def copies():
    return {"model": None, "teacher": tiny(num_hidden_layers=2), "noise_dim": 4}


def trained(folder, sharded, networks, **settings):
    """A run to its end."""
    trainer = made(folder, sharded, networks, **settings)
    trainer.train()
    return trainer


def made(folder, sharded, networks, objective="law_matching", **settings):
    os.environ |= FSDP
    if not sharded:
        os.environ["ACCELERATE_USE_FSDP"] = "false"
    given = networks()
    return distilling(
        folder, given.pop("teacher"), rows(32), objective=objective, **given, **SETTINGS | settings
    )


class _As(DiscreteDistillationTrainer):
    """A trainer whose accelerate takes the processes for those of GPUs, if it is to shard."""

    def create_accelerator_and_postprocess(self):
        if os.environ["ACCELERATE_USE_FSDP"] == "true":
            AcceleratorState._reset_state()
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()


def all_of(trainer):
    """What a run ends with, whole, under the names of a model that is not wrapped."""
    networks = {"student": trainer.model, **trainer.auxiliaries.models}
    found = {f"ema.{name}": value for name, value in trainer.average.kept().items()}
    for network, model in networks.items():
        reshard(model)
        for name, p in model.named_parameters():
            found[f"{network}.{name.replace('_checkpoint_wrapped_module.', '')}"] = whole(
                p.detach()
            ).clone()
    return found


def check_sharded(trainer):
    assert trainer.accelerator.is_fsdp2 and trainer.accelerator.num_processes == 2
    for model in (trainer.model, *trainer.auxiliaries.models.values()):
        reshard(model)
        assert len([m for m in model.modules() if isinstance(m, FSDPModule)]) >= 3
        assert all(isinstance(p, DTensor) for p in model.parameters())


def check_alike(one, two, **tolerance):
    one, two = all_of(one), all_of(two)
    assert one.keys() == two.keys(), one.keys() ^ two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def bytes_of(*models):
    parts = [p.to_local() for model in models for p in model.parameters()]
    return sum({p.untyped_storage().data_ptr(): p.nbytes for p in parts}.values())


def check_shared(trainer):
    """The auxiliary's base is the student's, in memory once."""
    size = sum(p.to_local().nbytes for p in trainer.model.parameters())
    own = sum(p.to_local().nbytes for p in trainer.model.parameters() if p.requires_grad)
    assert bytes_of(trainer.model, *trainer.auxiliaries.models.values()) == size + own


def check_resumed(folder, whole_run, networks, **settings):
    """A run that was cut ends where a whole one does, with the moments of both networks."""
    trained(folder, True, networks, callbacks=[stop_after(2)], **settings)
    resumed = made(folder, True, networks, **settings)
    dist.barrier()
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    check_alike(whole_run, resumed, atol=0, rtol=0)


def check_saved(folder, trainer):
    """What is saved is whole, and is the mean of the student's weights."""
    trainer.save_model(str(folder))
    dist.barrier()
    opened = load_model(str(folder)).state_dict()
    for name, mean in trainer.average.kept().items():
        if name in opened:
            torch.testing.assert_close(opened[name], mean)
    assert isinstance(trainer.model, PeftModel) or len(trainer.average.mean) == len(opened)


def main(folder):
    training_runs.DiscreteDistillationTrainer = _As
    close = {"atol": 1e-5, "rtol": 1e-5}
    for name, networks, settings in (
        ("copies", copies, {}),
        ("adapters", adapters, {}),
        ("blocks", blocks, {"objective": CAUSAL}),
    ):
        plain = trained(folder / name / "plain", False, networks, **settings)
        sharded = trained(folder / name / "sharded", True, networks, **settings)
        check_sharded(sharded)
        check_alike(plain, sharded, **close)
        if name != "copies":
            check_shared(sharded)
        check_saved(folder / name / "saved", sharded)
        check_resumed(folder / name / "cut", sharded, networks, **settings)
        print(name, "alike", flush=True)
    for objective in (
        {"type": "law_matching", "gradient": "pathwise", "horizon": "rollout"},
        {"type": "law_matching", "gradient": "pathwise", "horizon": "call"},
        "simplex_dmd",
        "distribution_matching",
        "didi",
    ):
        plain, sharded = (
            trained(folder / str(objective) / str(by), by, copies, objective=objective, max_steps=2)
            for by in (False, True)
        )
        check_alike(plain, sharded, **close)
        print(objective, "alike", flush=True)
    FSDP["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    sharded = trained(folder / "shards" / "sharded", True, copies)
    check_saved(folder / "shards" / "saved", sharded)
    check_resumed(folder / "shards" / "cut", sharded, copies)
    print("shards", "alike", flush=True)
    FSDP["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
    # As in examples/accelerate/fsdp2_8gpu.yaml: no activations kept, weights read by one process.
    more = {"FSDP_ACTIVATION_CHECKPOINTING": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    plain = trained(folder / "few" / "plain", False, adapters)
    os.environ |= more
    sharded = trained(folder / "few" / "sharded", True, adapters)
    check_alike(plain, sharded, **close)
    check_shared(sharded)
    print("few", "alike", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print(f"process {dist.get_rank()} of 2 is done", flush=True)
    # What FSDP leaves in cycles goes before its process group does.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
