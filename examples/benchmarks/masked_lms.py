"""A masked language model of transformers, distilled to a few calls, beside its teacher.

    python examples/benchmarks/masked_lms.py FOLDER sequences.txt --json sapiens.json --table

FOLDER holds the model and its tokenizer (`masked_lms_folder.py` makes one), the file one sequence
a line; the last 300 are held out, and the 100 before them are for the choice of settings
(`--pilot` judges by these). A row says of samples of the length that is most frequent what
`masked_lms_judge.py` lists; of held-out sequences themselves (`real`) the same, against the other
half of them. Teachers are sampled at several temperatures, so that each student stands beside them
at its own diversity. One student is trained for the most of `--calls` and judged at each. With
`--bf16` networks are trained under autocast; all samples and figures are of float32 weights and
float64 draws. Rows that the file has are not made again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmark_files import rows_file
from datasets import Dataset
from masked_lms_judge import FIGURES, SCORED, Figures, runs, table
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.models.held import enter_held
from hf_ddistill.models.random_tokens import enter_random_tokens
from hf_ddistill.objectives import Objective
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training import CardFacts, write_card

HELD_OUT, VALIDATION = 300, 100
#: The trainer's own.
COLLAPSE_SHARE = 0.5


def opened(args: argparse.Namespace, share: float) -> PreTrainedModel:
    """The teacher, such a share of whose noise is random tokens."""
    model = AutoModelForMaskedLM.from_pretrained(args.teacher).eval()
    model.config.mask_token_id = args.tokenizer.mask_token_id
    enter_held(model.config, args.tokenizer)
    if share:
        enter_random_tokens(model, share)
    return model


def drawn(
    args: argparse.Namespace, model: PreTrainedModel, calls: int, temperature: float = 1.0
) -> list[str]:
    """Samples as text, without spaces."""
    how = {"tokenizer": args.tokenizer, "temperature": temperature}
    pipe = DiscreteDiffusionPipeline.from_model(model.eval(), **how)
    pipe.set_progress_bar_config(disable=True)
    given = {"length": args.length, "num_inference_steps": calls, "batch_size": 50}
    generator, texts = torch.Generator().manual_seed(0), []
    while len(texts) < args.samples:
        texts += pipe(generator=generator, **given).texts
    return [text.replace(" ", "") for text in texts[: args.samples]]


def student(
    args: argparse.Namespace, rows: list, objective: str, share: float, seed: int
) -> tuple[PreTrainedModel, CardFacts, list[str]]:
    """A copy of the teacher that was trained, what a card tells, and what was warned of."""
    settings = {"noise_dim": args.noise_dim} if args.noise_dim else {}
    if args.noise_dim and args.noise_std:
        settings["noise_std"] = args.noise_std
    method = json.loads(objective) if objective.startswith("{") else objective
    if Objective.from_config(method).auxiliaries:
        settings |= {"auxiliary_learning_rate": args.auxiliary_learning_rate}
        settings |= {"auxiliary_updates": args.auxiliary_updates}
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = DiscreteDistillationTrainer(
            None,
            opened(args, share),
            method,
            DiscreteDistillationConfig(
                folder,
                student_steps=max(args.calls),
                max_steps=args.steps,
                learning_rate=args.learning_rate,
                warmup_steps=10,
                per_device_train_batch_size=args.batch_size,
                ema_decay=args.ema_decay,
                seed=seed,
                logging_steps=max(1, args.steps // 5),
                report_to=[],
                save_strategy="no",
                use_cpu=True,
                bf16=args.bf16,
                collapse_share=args.collapse_share,
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=args.tokenizer,
        )
        trainer.train()
        facts = trainer.facts()
        name = f"{facts.objective['type']}_random_{share:g}_seed_{seed}"
        kept = folder if args.keep is None else str(args.keep / name)
        trainer.save_model(kept)
        model = AutoModelForMaskedLM.from_pretrained(kept)
    return (
        model,
        facts,
        [str(each.message) for each in caught if str(each.message).startswith("The student")],
    )


def students(args: argparse.Namespace, rows: list, missing: Callable) -> Iterator[tuple]:
    """Each student of which rows are missing, its name and these."""
    for seed in args.seeds:
        for share in args.random_tokens:
            for objective in args.objectives:
                about = {"model": "student", "objective": objective, "random_tokens": share}
                about |= {"seed": seed, "steps": args.steps, "learning_rate": args.learning_rate}
                if args.noise_dim:
                    about |= {"noise_dim": args.noise_dim}
                if args.collapse_share != COLLAPSE_SHARE:
                    about |= {"collapse_share": args.collapse_share}
                if args.bf16:
                    about |= {"bf16": True}
                hot = args.student_temperatures
                how = [{"calls": c, "temperature": t} for c in args.calls for t in hot]
                names = [about | each for each in how]
                if any(map(missing, names)):
                    yield names, student(args, rows, objective, share, seed)


def card(args: argparse.Namespace, facts: CardFacts, name: str, rows: list[dict]) -> None:
    """Write the card of a student, with its figures, its teacher's and those of real sequences."""
    own = ("model", "random_tokens", "calls", "temperature", *FIGURES)
    told = [{key: row.get(key, "") for key in own if any(key in r for r in rows)} for row in rows]
    facts = replace(facts, name=name, teacher=args.about, data=args.data, rows=told, license="mit")
    write_card(args.cards / name, facts)


def main() -> None:
    """Make the rows that are missing."""
    args = arguments()
    args.tokenizer = AutoTokenizer.from_pretrained(args.teacher)
    texts = args.sequences.read_text().split()[: args.rows]
    train, real = texts[: -HELD_OUT - VALIDATION], texts[-HELD_OUT:]
    real = texts[-HELD_OUT - VALIDATION : -HELD_OUT] if args.pilot else real
    rows = [{"input_ids": args.tokenizer(text)["input_ids"]} for text in train]
    args.length = Counter(len(row["input_ids"]) for row in rows).most_common(1)[0][0]
    found = json.loads(args.json.read_text()) if args.json.is_file() else []
    figures = Figures(args.teacher, args.tokenizer, real, args.molecules, args.scored)

    def missing(name: dict) -> bool:
        return not any(name.items() <= row.items() for row in found)

    def add(name: dict, make: Callable[[], dict], **more: Any) -> None:
        if missing(name):
            found.append(name | more | make())
            print(found[-1], flush=True)
            args.json.write_text(json.dumps(found, indent=1))

    add({"model": "real"}, lambda: figures(real[::2], {*runs(real[1::2])}))
    full = args.length - 2 if args.full is None else args.full
    for share in args.random_tokens:
        for calls in (*args.calls, full):
            for hot in args.full_temperatures if calls == full else args.temperatures:
                name = {"model": "teacher", "random_tokens": share, "calls": calls}
                name |= {"temperature": hot}
                sampled = (args, opened(args, share), calls, hot)
                add(name, lambda sampled=sampled: figures(drawn(*sampled)))
    for names, (model, facts, warned) in students(args, rows, missing):
        for name in names:
            sampled = (args, model, name["calls"], name["temperature"])
            add(name, lambda sampled=sampled: figures(drawn(*sampled)), warned=warned)
        if args.cards is not None and names[0]["seed"] == args.seeds[0]:
            same = [row for row in found if row["model"] in ("real", "teacher")]
            own = [row for row in found if any(name.items() <= row.items() for name in names)]
            objective = json.loads(json.dumps(facts.objective))["type"]
            noise = f"_random_{names[0]['random_tokens']:g}" if names[0]["random_tokens"] else ""
            card(args, facts, f"{args.json.stem}_{objective}{noise}", [*same, *own])
    if args.table:
        print(table(found))


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--json", type=rows_file, required=True)
    parser.add_argument("--calls", type=int, nargs="+", default=[4, 8])
    parser.add_argument(
        "--full", type=int, help="the teacher's most calls (default: a letter each)"
    )
    parser.add_argument("--objectives", nargs="*", default=["ecd"])
    parser.add_argument("--random-tokens", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.8, 0.6, 0.4])
    parser.add_argument("--full-temperatures", type=float, nargs="*", default=[1.0, 0.6])
    parser.add_argument("--student-temperatures", type=float, nargs="+", default=[1.0, 0.6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=20_000, help="of the file, at most")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--scored", type=int, default=SCORED, help="samples of the pseudo_nll")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--ema-decay", type=float, default=0.98)
    parser.add_argument("--noise-dim", type=int, default=0)
    parser.add_argument("--noise-std", type=float, default=None)
    parser.add_argument("--auxiliary-learning-rate", type=float, default=3e-3)
    parser.add_argument("--auxiliary-updates", type=int, default=2)
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="train under autocast; samples are of float32 all the same",
    )
    parser.add_argument(
        "--collapse-share", type=float, default=COLLAPSE_SHARE, help="of the trainer; 0: no guard"
    )
    parser.add_argument("--molecules", action="store_true", help="sequences are SMILES")
    parser.add_argument("--pilot", action="store_true", help="judge by the validation part")
    parser.add_argument("--table", action="store_true", help="print all rows as Markdown")
    parser.add_argument("--cards", type=Path, help="folder for the students' model cards")
    parser.add_argument("--keep", type=Path, help="folder for the students")
    parser.add_argument("--about", help="the teacher's name on the cards")
    parser.add_argument("--data", help="what the sequences are, on the cards")
    return parser.parse_args()


if __name__ == "__main__":
    main()
