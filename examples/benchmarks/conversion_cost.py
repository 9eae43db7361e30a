"""What a step of on-policy conversion costs: the formulas of `conversion_step.py`
against real steps, and what they say of larger runs.

    python examples/benchmarks/conversion_cost.py [--only NAME] [--json FILE]

Operations are counted by torch's `FlopCounterMode` with eager attention (it does not know the fused
kernel of the CPU); bytes are those of live storages beside weights and gradients, with sdpa. No
constant is fitted. A few seconds for a row, half a minute for `smollm2-135m`.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, replace

import torch
from benchmark_files import rows_file
from conversion_step import ConversionStep
from peft import LoraConfig
from text_shape import TextShape
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from vocabulary import PeakBytes

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.models import unwrapped
from hf_ddistill.objectives import OPDLM, Rollouts

FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
TINY = TextShape(2, 64, 160, 4, 2, 16, 300, True)
SMALL = TextShape(3, 192, 512, 6, 3, 32, 4096, True)
DEEP = TextShape(6, 96, 256, 6, 2, 16, 300, True)
NARROW = TextShape(4, 128, 384, 8, 2, 32, 6000, False, qk_norm=True)
SMOLLM2 = TextShape(30, 576, 1536, 9, 3, 64, 49153, True)  # with the mask token
QWEN3_8B = TextShape(36, 4096, 12288, 32, 8, 128, 151_936, False, qk_norm=True)
THRESHOLD = {"type": "threshold", "threshold": 0.00017}  # what new weights are sure of

#: Steps that are really done: name -> (step, dtype, rule of the rollouts).
CHECKS = {
    "tiny, full": (ConversionStep(TINY, 2, 8, 32, number=4), "static"),
    "tiny, LoRA 8": (ConversionStep(TINY, 2, 8, 32, lora=8, number=4), "static"),
    "small, full": (ConversionStep(SMALL, 2, 22, 64), "static"),
    "small, full, recomputed": (ConversionStep(SMALL, 2, 22, 256, checkpointing=True), "static"),
    "small, LoRA 16, shifted": (
        ConversionStep(SMALL, 3, 22, 64, lora=16, shift=True, adapter_number=4),
        "static",
    ),
    "deep, full, recomputed": (ConversionStep(DEEP, 2, 16, 240, checkpointing=True), "static"),
    "deep, LoRA 8, recomputed": (
        ConversionStep(DEEP, 2, 16, 240, lora=8, checkpointing=True, number=4),
        "static",
    ),
    "narrow, full, uneven calls": (ConversionStep(NARROW, 3, 30, 66, number=4), THRESHOLD),
    "narrow, full, blocks of 16": (
        ConversionStep(NARROW, 2, 32, 96, block_size=16, calls=8.0),
        "static",
    ),
    "narrow, LoRA 16, recomputed": (
        ConversionStep(NARROW, 2, 32, 480, lora=16, checkpointing=True, number=4),
        "static",
    ),
    "smollm2-135m, LoRA 64, shifted": (
        ConversionStep(SMOLLM2, 1, 48, 32, lora=64, shift=True, adapter_number=4),
        "static",
    ),
}


def trained(plan, rule, attention):
    """A trainer with a new model of that shape, its network ready for a step, and a batch."""
    shape, (config, model) = plan.shape, FAMILIES["qwen3" if plan.shape.qk_norm else "llama"]
    torch.manual_seed(0)
    lm = model(
        config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            tie_word_embeddings=shape.tied,
            max_position_embeddings=4096,
            attn_implementation=attention,
            eos_token_id=None,
        )
    ).to({2: torch.bfloat16, 4: torch.float32}[plan.number])
    student, _ = to_block_diffusion(
        lm,
        mask_token_id=shape.vocabulary - 1,
        block_size=plan.block_size,
        shift_logits=plan.shift,
    )
    rank = plan.lora
    trainer = DiscreteDistillationTrainer(
        model=student,
        teacher=lm if rank is None else None,
        objective=OPDLM(
            Rollouts(
                tokens=plan.new,
                unmasking=rule,
                steps_per_block=None if plan.calls is None else int(plan.calls),
            )
        ),
        args=DiscreteDistillationConfig(
            tempfile.mkdtemp(),
            ema_decay=0.0,
            use_cpu=True,
        ),
        peft_config=rank and LoraConfig(r=rank, target_modules="all-linear"),
        train_dataset=[{"input_ids": [0] * plan.prompt}],
    )
    layers = unwrapped(trainer.model).lm.get_decoder().layers
    for index in range(len(layers) if plan.checkpointing else 0):
        layers[index] = checkpoint_wrapper(layers[index], preserve_rng_state=False)
    shown = {"input_ids": torch.randint(0, shape.vocabulary - 1, (plan.rows, plan.prompt))}
    return trainer, trainer.model.train(), shown


def counted(work):
    """Operations of some work, and what it gives."""
    with FlopCounterMode(display=False) as counter:
        out = work()
    return counter.get_total_flops(), out


def peak_bytes(trainer, network, record):
    """Beside the weights and their gradients, which are there before."""
    watch = PeakBytes()
    for weight in (*network.parameters(), *getattr(trainer.teacher_model, "parameters", list)()):
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
            watch.alive.add(weight.grad.untyped_storage()._cdata)
        watch.alive.add(weight.untyped_storage()._cdata)
    with watch:
        trainer.objective(record)["student"].backward()
    return watch.peak


def check(name, plan, rule):
    """One row: formula and measurement of a step."""
    trainer, network, shown = trained(plan, rule, "eager")
    rollout, record = counted(lambda: trainer.training_record(network, shown, 0, 0))
    calls = record.trajectory.calls.amax(0)
    calls = float(calls[calls > 0].double().mean())
    both, losses = counted(lambda: trainer.objective(record))
    backward, _ = counted(losses["student"].backward)
    masked = float(record.log.figures["masked"]) * plan.rows
    measured = {"rollout": rollout, "teacher and student": both, "backward": backward}
    plan = replace(plan, calls=calls, masked=masked)
    formula = plan.flops()
    formula["teacher and student"] = formula.pop("teacher") + formula.pop("student")
    trainer, network, shown = trained(plan, rule, "sdpa")
    record = replace(record, student=trainer.denoiser(network), peers=trainer.peers())
    measured["peak bytes"] = peak_bytes(trainer, network, record)
    formula["peak bytes"] = replace(
        plan, masked=float(record.log.figures["masked"]) * plan.rows
    ).peak()
    measured["weights"] = sum(p.numel() for p in network.parameters())
    rank = plan.lora
    formula["weights"] = plan.shape.parameters + (plan.shape.adapters(rank) if rank else 0)
    return {
        "step": name,
        "calls": round(calls, 3),
        "masked": masked,
        "measured": measured,
        "formula": {key: round(formula[key]) for key in measured},
        "error_percent": {
            key: round(100 * (formula[key] / value - 1), 2) for key, value in measured.items()
        },
    }


def larger():
    """What the formulas say of runs: on 8 GPUs for 66M tokens of rollouts, and on one process."""
    eight = ConversionStep(QWEN3_8B, 1, 256, 2048, checkpointing=True)
    runs = {
        "Qwen3-8B, full, static": (eight, 8),
        "Qwen3-8B, full, 2 tokens a call": (replace(eight, calls=2.0), 8),
        "Qwen3-8B, LoRA 64, static": (replace(eight, lora=64), 8),
        "Qwen3-8B, LoRA 64, 2 tokens a call": (replace(eight, lora=64, calls=2.0), 8),
        "Qwen3-8B, LoRA 64, 2 tokens a call, layers not recomputed": (
            replace(eight, lora=64, calls=2.0, checkpointing=False),
            8,
        ),
        "SmolLM2-135M, LoRA 64, shifted, static": (
            ConversionStep(SMOLLM2, 8, 48, 32, lora=64, shift=True, adapter_number=4),
            1,
        ),
    }
    for name, (plan, processes) in runs.items():
        steps = 66e6 / (processes * plan.rows * plan.new)
        flops = {key: value * processes for key, value in plan.flops().items()}
        yield {
            "run": name,
            "processes": processes,
            "step": {k: v for k, v in asdict(plan).items() if k != "shape"},
            "parameters": plan.shape.parameters,
            "flops_per_step": flops,
            "steps_for_66M_tokens": round(steps),
            "flops_for_66M_tokens": flops["total"] * steps,
            "bytes_per_process": plan.memory(processes),
        }


def table(rows, runs):
    """Both tables in Markdown."""
    names = ["rollout", "teacher and student", "backward", "peak bytes"]
    lines = ["| step | " + " | ".join(f"{name}, error %" for name in names) + " |"]
    lines.append("| --- |" + " ---: |" * len(names))
    for row in rows:
        cells = [f"{row['measured'][n]:.4g} ({row['error_percent'][n]:+.2f})" for n in names]
        lines.append(f"| {row['step']} | " + " | ".join(cells) + " |")
    parts = ["rollout", "teacher", "student", "backward", "total"]
    lines += ["", "| run | " + " | ".join(parts) + " | for 66M tokens |"]
    lines.append("| --- |" + " ---: |" * (len(parts) + 1))
    for run in runs:
        cells = [f"{run['flops_per_step'][part]:.3g}" for part in parts]
        lines.append(f"| {run['run']} | {' | '.join(cells)} | {run['flops_for_66M_tokens']:.2g} |")
    parts = list(runs[0]["bytes_per_process"])
    lines += ["", "| run | " + " | ".join(parts) + " |", "| --- |" + " ---: |" * len(parts)]
    for run in runs:
        cells = [f"{run['bytes_per_process'][part] / 1e9:.2f}" for part in parts]
        lines.append(f"| {run['run']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="part of the names of the steps to check")
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    rows = []
    for name, (plan, rule) in CHECKS.items():
        if args.only is None or args.only in name:
            rows.append(check(name, plan, rule))
            print(json.dumps(rows[-1]), flush=True)
    runs = list(larger())
    print(table(rows, runs))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
