"""`hf-ddistill exact`: objectives on problems where the law of what a sampler draws is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_ddistill.cli.common import print_table, write_json
from hf_ddistill.cli.exact_plot import save_scoreboard
from hf_ddistill.cli.kept_limits import cached_limit
from hf_ddistill.cli.members import build_diffusion, member, noise_tokens
from hf_ddistill.cli.options.exact import ExactOptions
from hf_ddistill.cli.terminal import is_terminal
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.blocks.scoreboard import BlockBench
from hf_ddistill.laboratory.blocks.students import BlockProblem
from hf_ddistill.laboratory.calls import calls_of
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.scoreboard import Bench, Row
from hf_ddistill.laboratory.students import BenchSettings
from hf_ddistill.objectives import Objective
from hf_ddistill.samplers import Sampler

#: Columns of the printed table; the JSON has all.
SHOWN = ("method", "nfe", "seed", "tv", "kl", "reverse_kl", "chi_square", "entropy")
COSTS = ("tv_error", "student_calls", "network_calls", "seconds")


def run(options: ExactOptions) -> int:
    """Measure, print the table, write the files."""
    objectives = [member(Objective, "--objective", text) for text in options.objective]
    _check_blocks(options, objectives)
    bench = build_bench(options)
    for objective in objectives:
        bench.check(objective, _calls(bench, options), one_student=options.one_student)
    rows = list(measured(bench, objectives, options))
    print(f"\n{bench.description}")
    print_rows(rows)
    write_json(options.json, {"rows": rows})
    if options.plot is not None:
        save_scoreboard(Path(options.plot), rows)
    return 0


def _check_blocks(options: ExactOptions, objectives: Sequence[Objective]) -> None:
    """Raise for an objective that needs blocks, where there are none."""
    for objective in objectives:
        if options.block_size is None and objective.over == "blocks":
            raise ValueError(
                f"--objective {objective.id} trains a decoder of blocks; give --block-size."
            )


def _calls(bench: Bench | BlockBench, options: ExactOptions) -> list[int]:
    """The numbers of network calls that are measured."""
    return sorted(set(options.nfe or bench.usual_calls))


def build_bench(options: ExactOptions) -> Bench | BlockBench:
    """The problem under its process, or in blocks, and the settings of all trainings."""
    names = [field.name for field in fields(BenchSettings)]
    given = {name: getattr(options, name) for name in names}
    if options.calls is None and options.minutes is None:
        del given["calls"]
    settings = BenchSettings(**given)
    law = exact_law(options.problem)
    tokens = int(law.sequences.max()) + 1
    name = Path(options.problem).stem if options.problem.endswith(".json") else options.problem
    if options.block_size is not None:
        length = law.sequences.shape[1]
        return BlockBench(name, BlockProblem(law.law, tokens, length, options.block_size), settings)
    diffusion = build_diffusion(
        options.process, options.schedule, tokens + noise_tokens(options.process)
    )
    problem = ExactProblem(law.law, law.sequences, diffusion)
    return Bench(name, problem, settings, options.draws)


def measured(
    bench: Bench | BlockBench, objectives: Sequence[Objective], options: ExactOptions
) -> Iterator[Row]:
    """All rows of one run: teacher, limit, start, and every objective from that start."""
    nfe = _calls(bench, options)
    quiet = {"leave": False, "disable": not is_terminal()}
    samplers = [member(Sampler, "--sampler", text) for text in options.sampler]
    rows = len(nfe) * len(samplers)
    yield from tqdm(_teacher_rows(bench, nfe, samplers, options), "teacher", rows, **quiet)
    if options.limit:
        with tqdm(desc="limit: evaluations", **quiet) as bar:
            yield from bench.limit_rows(nfe, partial(cached_limit, notify=bar.update))
    if not objectives:
        return
    start = bench.fit_start()
    yield from bench.start_rows(start, nfe)
    for objective in objectives:
        for seed in options.seeds:
            trainings = 1 if options.one_student else len(nfe)
            name = f"{objective.id}, seed {seed}"
            with tqdm(desc=name, total=100 * trainings, unit="%", **quiet) as bar:
                yield from bench.student_rows(
                    objective,
                    start,
                    nfe,
                    seed,
                    one_student=options.one_student,
                    notify=lambda share, bar=bar: bar.update(int(100 * share) - bar.n % 100),
                )


def _teacher_rows(
    bench: Bench | BlockBench,
    nfe: Sequence[int],
    samplers: Sequence[Sampler],
    options: ExactOptions,
) -> Iterator[Row]:
    """The exact teacher's, at the numbers of calls that allow a step; of others it is said."""
    if isinstance(bench, BlockBench):
        yield from bench.teacher_rows(nfe)
        return
    least = {sampler: calls_of(sampler, bench.problem, 1) for sampler in samplers}
    said = [f"a step of {s.id} takes {n} network calls" for s, n in least.items() if n > min(nfe)]
    if not (options.objective or options.limit) and min(least.values()) > max(nfe):
        raise ValueError(f"--nfe {' '.join(map(str, nfe))} is too few: {', '.join(said)}.")
    for sampler, calls in least.items():
        yield from bench.teacher_rows([n for n in nfe if n >= calls], [sampler])
    if said:
        print(f"Rows with fewer calls are left out: {', '.join(said)}.")


def print_rows(rows: Sequence[Row]) -> None:
    """The table, distances to four digits; what a limit is, where there is one."""
    several = len({row.get("sampler") for row in rows}) > 1
    keys = [SHOWN[0], *["sampler"] * several, *SHOWN[1:]]
    keys = [*keys, *(key for key in COSTS if any(key in row for row in rows))]
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
