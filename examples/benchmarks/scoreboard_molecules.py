"""Molecules of pieces: a teacher, students of few calls by every objective, and their figures.

    python examples/benchmarks/scoreboard_molecules.py --train TRAIN.txt --held-out TEST.txt
    python examples/benchmarks/scoreboard_molecules.py --fast

The files have one SMILES a line (MOSES: PyPI `molsets` 0.3.1); nothing is downloaded. Needs
`.[molecules]`. The teacher is that of examples/assets/molecules_teacher; `--teacher-steps` trains
it on, beside `--from-scratch` a new one. Run again after an interruption it goes on where it
stopped; what the output folder has is not made again.
"""

import argparse
import json
import random
from pathlib import Path

from benchmark_files import given_file, rows_file
from datasets import Dataset
from molecule_pieces import Vocabulary, pieces_of
from scoreboard_molecules_rows import Rows, measure
from scoreboard_molecules_students import STUDENTS, distil
from scoreboard_molecules_table import table
from scoreboard_molecules_teacher import train_teacher

ASSET = Path(__file__).parents[1] / "assets" / "molecules_teacher"
RINGS = ("c1ccccc1", "c1ccncc1", "C1CCNCC1", "C1CCOCC1", "c1ccoc1", "c1ccsc1", "C1CCCC1")
GROUPS = ("C", "CC", "OC", "NC", "CO", "C(=O)N", "C(=O)OC", "S(=O)(=O)N", "N#CC", "C(C)C", "OCC")


def options(given=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=given_file, help="SMILES to learn from, one a line")
    parser.add_argument("--held-out", type=given_file, help="SMILES that nothing is trained on")
    parser.add_argument("--output", type=Path, default=Path("scoreboard_molecules"))
    parser.add_argument("--json", type=rows_file, help="of the rows (default: in the output)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of --train that are read")
    parser.add_argument("--held-out-rows", type=int, default=4000)
    parser.add_argument("--vocabulary", type=int, default=512, help="of a new teacher: tokens")
    parser.add_argument("--length", type=int, default=8, help="of a new teacher: the most pieces")
    parser.add_argument("--teacher-steps", type=int, default=0, help="that the teacher trains on")
    parser.add_argument("--teacher-rate", type=float, default=2e-3, help="falls to 0 (cosine)")
    parser.add_argument("--teacher-batch-size", type=int, default=128)
    parser.add_argument("--from-scratch", action="store_true", help="a new teacher")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--passes", type=int, default=120_000, help="of a student: rows of calls")
    parser.add_argument("--noise-std", type=float, help="of a noise input (default: found)")
    parser.add_argument("--guard", action="store_true", help="the trainer's, over students")
    parser.add_argument("--batch-size", type=int, default=64, help="rows of each of its steps")
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--samples", type=int, default=600, help="judged in each row")
    parser.add_argument("--group", type=int, default=200, help="valid ones in each FCD")
    parser.add_argument("--teacher-nfe", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.8, 0.6])
    parser.add_argument("--student-nfe", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fast", action="store_true", help="77 molecules and half a minute")
    args = parser.parse_args(given)
    args.seed = args.seeds[0]  # the one of what is being made
    if args.fast:
        args.from_scratch, args.teacher_steps, args.vocabulary, args.length = True, 30, 24, 6
        args.passes, args.batch_size, args.samples, args.group = 300, 8, 40, 4
        args.teacher_nfe, args.student_nfe, args.temperatures = [4], [4], [1.0]
    elif args.train is None or args.held_out is None:
        parser.error("--train and --held-out are needed (or --fast)")
    return args


def read(args):
    """The lines to learn from and those held out, in random order."""
    if args.fast:
        lines = sorted({group + ring for group in GROUPS for ring in RINGS})
        random.Random(0).shuffle(lines)
        return lines[:60], lines[60:]
    train, held_out = (file.read_text().split() for file in (args.train, args.held_out))
    for lines in (train, held_out):
        random.Random(0).shuffle(lines)
    return train[: args.lines], held_out[: 5 * args.held_out_rows]


def vocabulary_of(args, rows):
    """That of the teacher that is started from, or of a new one; saved beside the results."""
    file = args.output / "pieces.json"
    source = file if file.exists() or args.from_scratch else ASSET / "pieces.json"
    if not source.exists():
        short = [row for row in rows if len(row) <= args.length]
        made = Vocabulary.of(short, args.vocabulary).names[1:-1]
        file.write_text(json.dumps({"length": args.length, "pieces": made}))
        source = file
    kept = json.loads(source.read_text())
    if source is not file:
        file.write_text(source.read_text())
    args.length = kept["length"]
    return Vocabulary(kept["pieces"])


def main():
    """Teacher, students, figures."""
    args = options()
    args.output.mkdir(parents=True, exist_ok=True)
    lines, held_out = read(args)
    rows = [pieces_of(line) for line in lines]
    vocabulary = vocabulary_of(args, rows)
    tokens = [vocabulary.tokens(row, args.length) for row in rows]
    train = [line for line, row in zip(lines, tokens, strict=True) if row is not None]
    data = Dataset.from_dict({"input_ids": [row for row in tokens if row is not None]})
    fit = [vocabulary.tokens(pieces_of(line), args.length) is not None for line in held_out]
    known = [line for line, each in zip(held_out, fit, strict=True) if each]
    known = known[: args.held_out_rows]
    print(
        f"{len(data):,} of {len(lines):,} molecules, {len(known):,} of those held out: "
        f"at most {args.length} of {len(vocabulary)} tokens"
    )
    teacher = train_teacher(args, data, len(vocabulary), None if args.from_scratch else ASSET)
    measured = Rows(args, train, known)
    measured.add(
        "real", {"nfe": 0, "sampler": "", "temperature": 0.0}, lambda: train[: args.samples]
    )
    for seed in args.seeds:
        args.seed = seed
        measure(measured, "teacher", teacher, vocabulary)
        for name in args.students:
            student, about = distil(args, name, teacher, data)
            measure(measured, name, student, vocabulary, about)
    print(table(measured.rows))


if __name__ == "__main__":
    main()
