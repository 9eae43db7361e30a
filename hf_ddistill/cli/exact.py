"""`hf-ddistill exact`: objectives on problems where the law of what a sampler draws is known."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_ddistill.cli.common import add_json, positive, print_table, write_json
from hf_ddistill.cli.console import is_terminal
from hf_ddistill.cli.exact_plot import save_scoreboard
from hf_ddistill.cli.members import build_diffusion, member, noise_tokens
from hf_ddistill.cli.values import CALLS, RATE, SEED, png_file, setting, whole
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.blocks.scoreboard import BlockBench
from hf_ddistill.laboratory.blocks.students import BlockProblem
from hf_ddistill.laboratory.fit import check_networks
from hf_ddistill.laboratory.problems import PROBLEMS, exact_law
from hf_ddistill.laboratory.scoreboard import DRAWS, Bench, Row
from hf_ddistill.laboratory.students import BenchSettings
from hf_ddistill.objectives import Objective

HELP = "exact terminal laws on small problems: the scoreboard of objectives"
#: alpha = 1 - t, as the known tables have it.
SCHEDULE = '{"type": "log_linear", "eps": 1e-9}'
#: Columns of the printed table; the JSON has all.
SHOWN = ("method", "nfe", "seed", "tv", "kl", "reverse_kl", "chi_square", "entropy")
COSTS = ("tv_error", "student_calls", "network_calls", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--problem",
        default="digits",
        help=f"{', '.join(PROBLEMS)} (parity:LENGTH for other lengths than 6), or a .json file "
        "with 'sequences' and 'law'",
    )
    parser.add_argument("--process", type=setting, default="absorbing", help="an id, or JSON")
    parser.add_argument(
        "--schedule", type=setting, default=SCHEDULE, help="an id, or JSON; alpha = 1 - t"
    )
    parser.add_argument(
        "--nfe",
        type=CALLS,
        nargs="+",
        help="network calls per sample (default: 1 2 4 8; of blocks 1, 2, 4 ... for each)",
    )
    parser.add_argument(
        "--block-size",
        type=positive,
        help="tokens in a block, for objectives of block diffusion (default: no blocks)",
    )
    parser.add_argument(
        "--objective",
        type=setting,
        nargs="+",
        default=[],
        help="ids, or JSON with settings; none: no training",
    )
    _add_training(parser)
    parser.add_argument("--plot", type=png_file, metavar="FILE", help="write a plot as PNG")
    add_json(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    """How the objectives are trained."""
    default = BenchSettings()
    parser.add_argument("--limit", action="store_true", help="also look for the limit (cached)")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0], help="of the trainings")
    parser.add_argument(
        "--calls",
        type=positive,
        help=f"passes of a batch through each student in training (default: {default.calls:,})",
    )
    parser.add_argument("--minutes", type=RATE, help="of each training (default: as --calls says)")
    parser.add_argument(
        "--one-student", action="store_true", help="one for all --nfe, instead of one for each"
    )
    parser.add_argument("--rows", type=whole(2), default=default.rows, help="of a batch")
    parser.add_argument("--width", type=positive, default=default.width, help="of the networks")
    parser.add_argument(
        "--start-steps", type=whole(), default=default.start_steps, help="of all students' start"
    )
    parser.add_argument(
        "--noise-dim",
        type=whole(),
        help="of students with an auxiliary (default: 4 under masks, else 0)",
    )
    parser.add_argument(
        "--learning-rate", type=RATE, default=default.learning_rate, help="of the students"
    )
    parser.add_argument(
        "--auxiliary-learning-rate",
        type=RATE,
        default=default.auxiliary_learning_rate,
        help="of the auxiliary",
    )
    parser.add_argument(
        "--auxiliary-updates",
        type=positive,
        default=default.auxiliary_updates,
        help="for each one of the student",
    )
    parser.add_argument(
        "--auxiliary-warmup",
        type=whole(),
        default=default.auxiliary_warmup,
        help="steps that train it alone",
    )
    parser.add_argument(
        "--draws", type=positive, default=DRAWS, help="of the noise input, for the exact law"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the files."""
    objectives = [member(Objective, "--objective", text) for text in args.objective]
    for objective in objectives:
        check_networks(objective)
    _check_blocks(args, objectives)
    bench = build_bench(args)
    rows = list(measured(bench, objectives, args))
    print(f"\n{bench.description}")
    print_rows(rows)
    write_json(args.json, {"rows": rows})
    if args.plot is not None:
        save_scoreboard(Path(args.plot), rows)
    return 0


def _check_blocks(args: argparse.Namespace, objectives: Sequence[Objective]) -> None:
    """Raise for what sequences or blocks have no use for."""
    if args.block_size is None:
        for objective in objectives:
            if objective.rollouts is not None:
                raise ValueError(
                    f"--objective {objective.id} trains on blocks that are decoded; give "
                    "--block-size."
                )
        return
    given = {"--limit": args.limit, "--noise-dim": args.noise_dim is not None}
    given |= {"--process": args.process != "absorbing", "--schedule": args.schedule != SCHEDULE}
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise ValueError(f"{flag}: not with --block-size; blocks are decoded from masks alone.")


def build_bench(args: argparse.Namespace) -> Bench | BlockBench:
    """The problem under its process, or in blocks, and the settings of all trainings."""
    calls = BenchSettings().calls if args.calls is None and args.minutes is None else args.calls
    settings = BenchSettings(
        calls=calls,
        minutes=args.minutes,
        rows=args.rows,
        width=args.width,
        noise_dim=args.noise_dim,
        learning_rate=args.learning_rate,
        auxiliary_learning_rate=args.auxiliary_learning_rate,
        auxiliary_updates=args.auxiliary_updates,
        auxiliary_warmup=args.auxiliary_warmup,
        start_steps=args.start_steps,
    )
    law = exact_law(args.problem)
    tokens = int(law.sequences.max()) + 1
    name = Path(args.problem).stem if args.problem.endswith(".json") else args.problem
    if args.block_size is not None:
        length = law.sequences.shape[1]
        return BlockBench(name, BlockProblem(law.law, tokens, length, args.block_size), settings)
    diffusion = build_diffusion(args.process, args.schedule, tokens + noise_tokens(args.process))
    problem = ExactProblem(law.law, law.sequences, diffusion)
    return Bench(name, problem, settings, args.draws)


def measured(
    bench: Bench | BlockBench, objectives: Sequence[Objective], args: argparse.Namespace
) -> Iterator[Row]:
    """All rows of one run: teacher, limit, start, and every objective from that start."""
    nfe = sorted(set(args.nfe or bench.usual_calls))
    quiet = {"leave": False, "disable": not is_terminal()}
    yield from tqdm(bench.teacher_rows(nfe), "teacher", len(nfe), **quiet)
    if args.limit:
        with tqdm(desc="limit: evaluations", **quiet) as bar:
            yield from bench.limit_rows(nfe, bar.update)
    if not objectives:
        return
    start = bench.fit_start()
    yield from bench.start_rows(start, nfe)
    for objective in objectives:
        for seed in args.seeds:
            trainings = 1 if args.one_student else len(nfe)
            name = f"{objective.id}, seed {seed}"
            with tqdm(desc=name, total=100 * trainings, unit="%", **quiet) as bar:
                yield from bench.student_rows(
                    objective,
                    start,
                    nfe,
                    seed,
                    one_student=args.one_student,
                    notify=lambda share, bar=bar: bar.update(int(100 * share) - bar.n % 100),
                )


def print_rows(rows: Sequence[Row]) -> None:
    """The table, distances to four digits; what a limit is, where there is one."""
    keys = [*SHOWN, *(key for key in COSTS if any(key in row for row in rows))]
    print_table([{key: _shown(row.get(key)) for key in keys} for row in rows])
    if any(row["method"] == "limit" for row in rows):
        print(
            "limit: the best sampler without a noise input that optimisation found, not a proof "
            "that none is better."
        )


def _shown(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else value
