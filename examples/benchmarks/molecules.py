"""Molecules: a teacher of SMILES, one character a token, and students of few calls.

    python examples/benchmarks/molecules.py --train TRAIN.txt --held-out TEST.txt --output FOLDER
    python examples/benchmarks/molecules.py --fast

The files have one SMILES a line (MOSES, say); nothing is downloaded. Needs `.[molecules]`. Run
again after an interruption it goes on where it stopped; what FOLDER has is not trained again.
"""

import argparse
import json
import random
import time
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionPipeline,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
    LogLinear,
)
from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.resuming import train
from hf_ddistill.evaluation import MoleculeJudge
from hf_ddistill.schedulers import AncestralScheduler, JumpScheduler

PAD, MASK = "_", "?"  # no characters of SMILES
RINGS = ("c1ccccc1", "c1ccncc1", "C1CCNCC1", "C1CCOCC1", "c1ccoc1", "c1ccsc1", "C1CCCC1")
GROUPS = ("C", "CC", "OC", "NC", "CO", "C(=O)N", "C(=O)OC", "S(=O)(=O)N", "N#CC", "C(C)C", "OCC")
OBJECTIVES = {
    "law_matching": {"type": "law_matching"},
    "law_matching_jeffreys": {"type": "law_matching", "divergence": "jeffreys"},
    "ecd": {"type": "ecd", "times": "grid_times"},
}


def options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, help="SMILES to learn from, one a line")
    parser.add_argument("--held-out", type=Path, help="SMILES for the Fréchet ChemNet distance")
    parser.add_argument("--output", type=Path, default=Path("molecules"))
    parser.add_argument("--rows", type=int, default=200_000, help="molecules to learn from")
    parser.add_argument("--held-out-rows", type=int, default=2000)
    parser.add_argument("--length", type=int, default=48, help="molecules are shorter than this")
    parser.add_argument("--teacher-steps", type=int, default=13_000)
    parser.add_argument("--teacher-batch-size", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--steps", type=int, default=1500, help="of law matching")
    parser.add_argument("--batch-size", type=int, default=64, help="rows of each of these")
    parser.add_argument("--warmup", type=int, default=100, help="of these, the auxiliary alone")
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--fcd-molecules", type=int, default=1000, help="in each group of it")
    parser.add_argument("--teacher-nfes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 48])
    parser.add_argument("--cold", type=float, default=0.5, help="temperature of more teacher rows")
    parser.add_argument("--student-nfes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="77 molecules and half a minute")
    args = parser.parse_args()
    if args.fast:
        args.teacher_steps, args.steps, args.warmup, args.batch_size = 40, 6, 2, 8
        args.samples, args.teacher_nfes, args.student_nfes = 40, [4], [4]
        args.fcd_molecules = 4
    elif args.train is None or args.held_out is None:
        parser.error("--train and --held-out are needed (or --fast)")
    return args


def molecules(args):
    """Those to learn from and those held out."""
    if args.fast:
        lines = sorted({group + ring for group in GROUPS for ring in RINGS})
        random.Random(args.seed).shuffle(lines)
        return lines[:60], lines[60:]
    train = short(args.train, args.length, args.rows, args.seed)
    return train, short(args.held_out, args.length, args.held_out_rows, 0)


def short(file, length, count, seed):
    """So many random lines of a file that leave room for padding."""
    lines = file.read_text().split()
    random.Random(seed).shuffle(lines)
    if not (found := [line for line in lines if len(line) < length]):
        raise SystemExit(f"{file} has no line shorter than --length {length}.")
    return found[:count]


def texts(tokens, characters):
    """Padding is taken off the end alone: within a sample it is an error of the model."""
    rows = ("".join(characters[i] for i in row) for row in tokens.tolist())
    return [row.rstrip(PAD) for row in rows]


def settings(args, steps, **more):
    """What all trainings share."""
    return {
        "max_steps": steps,
        "lr_scheduler_type": "cosine",
        "adam_beta2": 0.98,
        "logging_steps": 100 if steps > 100 else steps,
        "save_steps": max(1, steps // 10),
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": args.bf16,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
        **more,
    }


def trained(trainer, folder):
    """The model that training leaves in `folder`, from the last checkpoint if there is one."""
    started = time.monotonic()
    train(trainer, folder)
    trainer.save_model()
    print(f"{folder.name}: {time.monotonic() - started:.0f} s", flush=True)
    return AutoModelForMaskedLM.from_pretrained(folder)


def in_bf16(model, args):
    """The model as it is trained fastest in bfloat16: on CPUs the fused attention's gradient is
    slow in it."""
    if args.bf16 and not torch.cuda.is_available():
        model.set_attn_implementation("eager")
    return model


def train_teacher(args, data, size):
    """A masked-diffusion model by the likelihood bound; padding is a token as any other."""
    folder = args.output / "teacher"
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(args.seed)
    model = DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=size,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=args.length,
            position_embedding="rotary_learned",
            rope_theta=100.0,
            mask_token_id=size - 1,
        )
    )
    config = DiscreteDiffusionConfig(
        str(folder),
        **settings(args, args.teacher_steps, learning_rate=2e-3, weight_decay=0.02),
        per_device_train_batch_size=args.teacher_batch_size,
        warmup_steps=min(200, args.teacher_steps // 10),
        ema_decay=0.9995 if args.teacher_steps > 2000 else 0.98,
    )
    diffusion = Diffusion(Absorbing(size), LogLinear(eps=1e-4))
    trainer = DiscreteDiffusionTrainer(
        in_bf16(model, args), config, diffusion=diffusion, train_dataset=data
    )
    return trained(trainer, folder)


def calls_per_row(objective, most):
    """Forward passes of a network for each row of a training step."""
    if objective == "ecd":
        return 2.0  # student, teacher
    numbers = [2**i for i in range(most.bit_length())]
    before = sum((n - 1) / 2 for n in numbers) / len(numbers)
    return before + 3  # the calls before the one that is trained, student, teacher, auxiliary


def distil(args, name, teacher, data):
    """One student for 1, 2, 4 and 8 calls; each objective gets as many network calls."""
    folder, most = args.output / name, max(args.student_nfes)
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    share = calls_per_row("law_matching", most) / calls_per_row(name, most)
    steps, own = int(args.steps * share), {"learning_rate": 2e-4}
    if name.startswith("law_matching"):
        own = {
            "learning_rate": 5e-4,
            "noise_dim": 8,
            "auxiliary_learning_rate": 1e-3,
            "auxiliary_warmup_steps": args.warmup,
        }
    config = DiscreteDistillationConfig(
        str(folder),
        **settings(args, steps, weight_decay=0.0, **own),
        student_steps=most,
        per_device_train_batch_size=args.batch_size,
        warmup_steps=min(20, steps // 10),
        ema_decay=0.98,
    )
    trainer = DiscreteDistillationTrainer(
        teacher=in_bf16(teacher, args),
        objective=OBJECTIVES[name],
        args=config,
        train_dataset=data,
    )
    return trained(trainer, folder)


class Figures:
    """The rows of `molecules.json`; one that is there is not measured again."""

    def __init__(self, args, judge):
        self.args, self.judge, self.file = args, judge, args.output / "molecules.json"
        self.rows = json.loads(self.file.read_text())["rows"] if self.file.exists() else []

    def add(self, sample, **about):
        """Measure what `sample()` gives, unless there is a row about it."""
        if any(about.items() <= row.items() for row in self.rows):
            return
        self.rows.append({**about, **self.judge(sample())})
        brief = {k: round(v, 4) if isinstance(v, float) else v for k, v in self.rows[-1].items()}
        print(json.dumps(brief), flush=True)
        told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.args).items()}
        self.file.write_text(json.dumps({"rows": self.rows, "setup": told}, indent=1) + "\n")


def measure(figures, characters, name, model):
    """A row for each number of calls and each sampler."""
    args, at = figures.args, {"model": name, "seed": figures.args.seed}
    schedulers = {"ancestral": AncestralScheduler, "jump": JumpScheduler}
    if name == "teacher":  # the cold ones show what sharpening alone does
        ways = [(nfe, "ancestral", heat) for heat in (1.0, args.cold) for nfe in args.teacher_nfes]
    else:
        ways = [(nfe, "ancestral", 1.0) for nfe in args.student_nfes]
        if name.startswith("law_matching"):
            ways += [(nfe, "jump", 1.0) for nfe in args.student_nfes if nfe > 1]

    def sample(nfe, sampler, temperature):
        scheduler = schedulers[sampler]
        pipe = DiscreteDiffusionPipeline.from_model(model, scheduler, temperature=temperature)
        pipe.set_progress_bar_config(disable=True)
        tokens = draw(pipe, nfe, args.samples, seed=args.seed + 1, batch_size=250)
        return texts(tokens, characters)

    for way in ways:
        about = dict(zip(("nfe", "sampler", "temperature"), way, strict=True))
        figures.add(partial(sample, *way), **at, **about, samples=args.samples)


def main():
    """Teacher, students, figures."""
    args = options()
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    train, held_out = molecules(args)
    characters = [PAD, *sorted(set("".join(train))), MASK]
    index = {character: i for i, character in enumerate(characters)}
    data = Dataset.from_dict(
        {"input_ids": [[index[c] for c in line.ljust(args.length, PAD)] for line in train]}
    )
    judge = MoleculeJudge(tuple(train), tuple(held_out), args.fcd_molecules)
    figures = Figures(args, judge)
    real = train[: args.samples]
    figures.add(lambda: real, model="real", nfe=0, seed=args.seed, samples=len(real))
    teacher = train_teacher(args, data, len(characters))
    measure(figures, characters, "teacher", teacher)
    for name in args.objectives:
        measure(figures, characters, name, distil(args, name, teacher, data))


if __name__ == "__main__":
    main()
