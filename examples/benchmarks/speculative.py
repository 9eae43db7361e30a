"""Accepted tokens per call of the teacher in speculative any-order decoding, by draft.

    python examples/benchmarks/speculative.py exact --json exact.json
    python examples/benchmarks/speculative.py digits --steps 1000 --json digits.json

`exact`: the laboratory's problems with their exact teacher. `digits`: the teacher in the package,
64 binary pixels by class. Drafts: the teacher itself, without a call ("self"), a small network as
it is made ("untrained"), and the same one trained for as many steps by the forward KL, by the total
variation of each token and by `acceptance` itself; at digits also the quickstart's few-step student
and a second call of the teacher ("copy"). `tokens_per_call` are new tokens by calls of the
teacher, `rows_per_call` the states that it is shown in one, `kept` the share of the drafts that
stay, `calls` those of a sequence. The law of what is drawn is the teacher's in all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmark_files import rows_file
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.denoisers import Denoiser, Drafted
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.evaluation import load_digit_tokens, split_digits
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.network import exact_teacher, network_denoiser
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.students import BenchSettings, fit_start, train_student
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.objectives import Acceptance
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import speculate

#: What a draft is trained by.
TRAINED = {
    "forward_kl": "forward_kl",
    "total_variation": "total_variation",
    "acceptance": None,
}
ASSETS = Path(__file__).parents[2] / "hf_ddistill" / "assets"


def measured(denoiser: Denoiser, rows: int, length: int, lookahead: int, **condition) -> dict:  # noqa: ANN003
    """What decoding so many rows took."""
    mask = denoiser.diffusion.process.mask_token_id
    start, x = time.process_time(), torch.full((rows, length), mask)
    done = speculate(denoiser, x, lookahead, torch.Generator().manual_seed(0), **condition)
    seconds, calls = time.process_time() - start, done.calls.sum()
    return {
        "lookahead": lookahead,
        "tokens_per_call": round(float(done.tokens.sum() / calls), 3),
        "rows_per_call": round(float(done.rows.sum() / calls), 3),
        "kept": round(float((done.tokens.sum() - calls) / done.drafted.sum().clamp_min(1)), 3),
        "calls": round(float(done.calls.double().mean()), 2),
        "cpu_seconds": round(seconds, 1),
    }


def exact(args: argparse.Namespace) -> list[dict]:
    """Drafts of the laboratory's networks under the exact teacher."""
    rows = []
    for name in args.problems:
        law = exact_law(name)
        masks = Diffusion(Absorbing(int(law.sequences.max()) + 2))
        problem = ExactProblem(law.law, law.sequences, masks)
        teacher = exact_teacher(problem)
        settings = BenchSettings(calls=args.steps, start_steps=0, rows=256, width=128)
        for seed in range(args.seeds):
            start = fit_start(problem, settings, seed)
            drafts = {"untrained": network_denoiser(start, problem)}
            for draft, divergence in TRAINED.items():
                objective = Acceptance(args.train_lookahead, divergence)
                student = train_student(problem, objective, 1, start, settings, seed=seed)
                drafts[draft] = student.denoiser
            pairs = {key: Drafted(teacher, draft) for key, draft in drafts.items()}
            for key, pair in {"self": teacher, **pairs}.items():
                for lookahead in args.lookahead:
                    found = measured(pair, args.samples, problem.length, lookahead)
                    rows.append({"problem": name, "draft": key, "seed": seed, **found})
                    print(rows[-1], flush=True)
    return rows


def small_draft(seed: int) -> DDiTForDiscreteDiffusion:
    """One layer of 64, where the teacher has three of 128."""
    torch.manual_seed(seed)
    config = DDiTConfig(
        vocab_size=3,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_classes=10,
        token_shape=(8, 8),
        max_position_embeddings=64,
        position_embedding="rotary_learned",
        time_conditioning=False,
        mask_token_id=2,
    )
    return DDiTForDiscreteDiffusion(config).eval()


def trained(divergence: str | None, teacher: object, args: argparse.Namespace, seed: int) -> object:
    """A small draft of the digits teacher after so many steps."""
    split = split_digits(*load_digit_tokens(2))
    columns = {"input_ids": split.train_tokens.tolist()}
    columns["class_labels"] = split.train_labels.tolist()
    student = small_draft(seed)
    as_denoiser(student, as_denoiser(teacher).diffusion)
    with TemporaryDirectory() as folder:
        trainer = DiscreteDistillationTrainer(
            student,
            teacher=teacher,
            objective=Acceptance(args.train_lookahead, divergence),
            args=DiscreteDistillationConfig(
                folder,
                max_steps=args.steps,
                per_device_train_batch_size=32,
                learning_rate=2e-3,
                warmup_steps=20,
                lr_scheduler_type="cosine",
                logging_steps=100,
                save_strategy="no",
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_dict(columns),
        )
        trainer.train()
        return trainer.model.eval()


def digits(args: argparse.Namespace) -> list[dict]:
    """Drafts of the digits teacher."""
    teacher, rows = shipped_teacher().eval(), []
    labels = torch.arange(args.samples) % 10
    student = AutoModelForMaskedLM.from_pretrained(ASSETS / "digits_student").float().eval()
    for seed in range(args.seeds):
        drafts = {"copy": teacher, "few_step_student": student} if not seed else {}
        drafts["untrained"] = small_draft(seed)
        as_denoiser(drafts["untrained"], as_denoiser(teacher).diffusion)
        for name, divergence in TRAINED.items():
            drafts[name] = trained(divergence, teacher, args, seed)
        verifier = as_denoiser(teacher)
        pairs = {} if seed else {"self": verifier}
        pairs |= {name: Drafted(verifier, as_denoiser(draft)) for name, draft in drafts.items()}
        for name, pair in pairs.items():
            for lookahead in args.lookahead:
                found = measured(pair, args.samples, 64, lookahead, class_labels=labels)
                rows.append({"problem": "digits_64", "draft": name, "seed": seed, **found})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("exact", "digits"))
    parser.add_argument("--steps", type=int, default=1000, help="of a draft's training")
    parser.add_argument("--train-lookahead", type=int, default=4)
    parser.add_argument("--lookahead", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--problems", nargs="+", default=["digits", "trigrams"])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    rows = {"exact": exact, "digits": digits}[args.what](args)
    if args.json is not None:
        about = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"rows": rows, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
