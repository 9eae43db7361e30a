"""A masked language model of transformers, distilled to a few calls, beside its teacher.

    python examples/benchmarks/masked_lms.py FOLDER sequences.txt --json sapiens.json

FOLDER holds the model and its tokenizer, the file one sequence of single-letter tokens a line; the
last 300 are held out. A row says of 200 samples of the length that is most frequent: the share of
their 4-mers that are in held-out sequences (`found`), the entropy of the letters in nats and how
many samples are distinct; of held-out sequences themselves (`real`) the same, against the other
half of them. Rows that the file has are not made again.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.evaluation import corpus_entropy, pad_tokens
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

HELD_OUT, SAMPLES = 300, 200


def figures(texts: list[str], real: list[str]) -> dict[str, float]:
    """What is told of sequences, beside real ones."""
    known = {text[i : i + 4] for text in real for i in range(len(text) - 3)}
    own = [text[i : i + 4] for text in texts for i in range(len(text) - 3)]
    letters = [[ord(letter) for letter in text] for text in texts if text]
    return {
        "found": sum(each in known for each in own) / max(len(own), 1),
        "entropy": float(corpus_entropy(*pad_tokens(letters))),
        "distinct": len(set(texts)) / len(texts),
    }


def drawn(model: PreTrainedModel, tokenizer: object, length: int, calls: int, seed: int) -> list:
    """Samples as text, without spaces."""
    pipe = DiscreteDiffusionPipeline.from_model(model.eval(), tokenizer=tokenizer)
    pipe.set_progress_bar_config(disable=True)
    generator, texts = torch.Generator().manual_seed(seed), []
    for _ in range(0, SAMPLES, 50):
        given = {"length": length, "num_inference_steps": calls, "generator": generator}
        texts += pipe(batch_size=50, **given).texts
    return [text.replace(" ", "") for text in texts]


def student(
    args: argparse.Namespace, tokenizer: object, rows: list, calls: int, objective: str
) -> PreTrainedModel:
    """A copy of the teacher, trained for so many calls."""
    with TemporaryDirectory() as folder:
        trainer = DiscreteDistillationTrainer(
            None,
            args.teacher,
            objective,
            DiscreteDistillationConfig(
                folder,
                student_steps=calls,
                max_steps=args.steps,
                learning_rate=args.learning_rate,
                per_device_train_batch_size=16,
                seed=args.seed,
                report_to=[],
                save_strategy="no",
                use_cpu=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
        with trainer.averaged_weights():
            return copy.deepcopy(trainer.model)


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--calls", type=int, nargs="+", default=[4])
    parser.add_argument("--objectives", nargs="+", default=["ecd"])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.teacher)
    texts = args.sequences.read_text().split()
    train, real = texts[:-HELD_OUT], texts[-HELD_OUT:]
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in train]
    ends = len(rows[0]["input_ids"]) - len(train[0])
    length = Counter(map(len, train)).most_common(1)[0][0] + ends
    found = json.loads(args.json.read_text()) if args.json.is_file() else []

    def add(name: dict, make: object) -> None:
        if any(name.items() <= row.items() for row in found):
            return
        found.append(name | make())
        print(found[-1], flush=True)
        args.json.write_text(json.dumps(found, indent=1))

    add({"model": "real"}, lambda: figures(real[::2], real[1::2]))
    full = length - ends
    for calls in (*args.calls, full):

        def of_teacher(calls: int = calls) -> dict:
            model = AutoModelForMaskedLM.from_pretrained(args.teacher)
            return figures(drawn(model, tokenizer, length, calls, args.seed), real)

        add({"model": "teacher", "calls": calls}, of_teacher)
    for objective in args.objectives:
        for calls in args.calls:

            def of_student(calls: int = calls, objective: str = objective) -> dict:
                model = student(args, tokenizer, rows, calls, objective)
                return figures(drawn(model, tokenizer, length, calls, args.seed), real)

            about = {"model": "student", "objective": objective, "calls": calls}
            about |= {"steps": args.steps, "learning_rate": args.learning_rate, "seed": args.seed}
            add(about, of_student)


if __name__ == "__main__":
    main()
