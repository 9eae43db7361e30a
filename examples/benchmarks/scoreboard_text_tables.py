"""The tables of `docs/results/text.md`, from the rows of `scoreboard_text.py`.

python examples/benchmarks/scoreboard_text_tables.py examples/results/scoreboard_text.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoreboard_text_figures import FIGURES, at_entropy, best_teacher, curve
from scoreboard_text_recipes import ALL

Row = Mapping[str, Any]
#: By which diversity is matched.
ENTROPIES = {"ngram_entropy": "of 4-grams", "entropy": "of symbols"}
#: By which nll students and teachers are compared.
JUDGES = {"nll": "the judge", "lm_nll": "SmolLM2"}


def number(value: float) -> str:
    """Without a zero before the point."""
    text = f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def cells(row: Row) -> list[str]:
    """The figures of samples; a judge need not have read them all."""
    return [number(row[name]) if name in row else "" for name in FIGURES]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *rest))


def teacher_table(rows: Sequence[Row]) -> str:
    """Real text, and the teacher's samplers at temperature 1."""
    real = next(row for row in rows if row["model"] == "real")
    lines = [["", "calls", *FIGURES.values()], ["real text", "", *cells(real)]]
    own = [row for row in rows if row["model"] == "teacher"]
    for name in dict.fromkeys(row["sampler"] for row in own):
        for calls in sorted({row["calls"] for row in own if row["sampler"] == name}):
            made = curve(rows, model="teacher", sampler=name, calls=calls)
            lines += [[name, str(calls), *cells(each)] for each in made if each["temperature"] == 1]
    return markdown(lines)


def student_names(rows: Sequence[Row]) -> list[str]:
    """Those that have rows."""
    there = {row["model"] for row in rows}
    return [name for name in ALL if name in there]


def student_table(rows: Sequence[Row]) -> str:
    """Students at temperature 1."""
    lines = [["student", "calls", *FIGURES.values()]]
    for name in student_names(rows):
        for calls in sorted({row["calls"] for row in rows if row["model"] == name}):
            made = curve(rows, model=name, calls=calls)
            lines += [[name, str(calls), *cells(each)] for each in made if each["temperature"] == 1]
    return markdown(lines)


def matched_table(rows: Sequence[Row], calls: int, by: str) -> str:
    """Each student at each of its temperatures beside the teachers at its entropy."""
    head = ["student", "temperature", ENTROPIES[by], "nll", "known words"]
    lines = [[*head, "ancestral teacher", "best teacher", "ahead by", "known words of the best"]]
    for name in student_names(rows):
        for row in curve(rows, model=name, calls=calls):
            own = curve(rows, model="teacher", sampler="ancestral", calls=calls)
            plain = at_entropy(own, row[by], by)
            line = [name, f"{row['temperature']:g}", number(row[by]), number(row["nll"])]
            line += [number(row["words"]), "none" if plain is None else number(plain["nll"])]
            best = best_teacher(rows, calls, row[by], by)
            if best is None:
                lines.append([*line, "none", "", ""])
                continue
            sampler, own = best
            line += [f"{number(own['nll'])} ({sampler}, {own['temperature']:.2f})"]
            lines.append([*line, f"{own['nll'] - row['nll']:+.3f}", number(own["words"])])
    return markdown(lines)


def ahead(rows: Sequence[Row], name: str, calls: int, by: str, judge: str = "nll") -> float | None:
    """The mean over a student's temperatures of what the best teacher's nll is above its own at
    equal entropy; None where no teacher is as diverse at any of them."""
    gains = []
    for row in curve(rows, model=name, calls=calls):
        best = best_teacher(rows, calls, row[by], by, judge) if judge in row else None
        if best is not None:
            gains.append(best[1][judge] - row[judge])
    return sum(gains) / len(gains) if gains else None


def seeds_of(rows: Sequence[Row], name: str) -> list[list[Row]]:
    """The rows of the teacher with those of one seed of a student, for each seed that it has."""
    seeds = sorted({row["seed"] for row in rows if row["model"] == name})
    return [[row for row in rows if row["model"] != name or row["seed"] == seed] for seed in seeds]


def most_calls(rows: Sequence[Row]) -> Row | None:
    """The teacher's ancestral steps at temperature 1 in the most calls: all but its own law."""
    own = [row for row in rows if row["model"] == "teacher" and row["sampler"] == "ancestral"]
    calls = max((row["calls"] for row in own), default=0)
    made = curve(own, model="teacher", sampler="ancestral", calls=calls)
    return next((row for row in made if row["temperature"] == 1), None)


def ranking(rows: Sequence[Row], by: str, judge: str = "nll") -> str:
    """Students by calls: what they are ahead of the best teacher by, in nats; of several seeds the
    mean, and in brackets the least and the most. The last line is how far the teacher's own law is
    ahead of its few calls, where it was drawn from in more calls than students were."""
    read = [row for row in rows if row["model"] in ALL and judge in row]
    calls = sorted({row["calls"] for row in read})
    lines = [["student", *(f"calls: {each}" for each in calls)]]
    for name in student_names(read):
        line = [name]
        for each in calls:
            gains = [ahead(own, name, each, by, judge) for own in seeds_of(rows, name)]
            gains = [gain for gain in gains if gain is not None]
            mean = f"{sum(gains) / len(gains):+.3f}" if gains else "none"
            spread = f" ({min(gains):+.3f} to {max(gains):+.3f})" if len(gains) > 1 else ""
            line.append(mean + spread)
        lines.append(line)
    law = most_calls(rows)
    if law and judge in law and law["calls"] > max(calls):
        line = [f"the teacher's {law['calls']} calls"]
        for each in calls:
            best = best_teacher(rows, each, law[by], by, judge)
            line.append(f"{best[1][judge] - law[judge]:+.3f}" if best else "none")
        lines.append(line)
    return markdown(lines)


def cost_table(rows: Sequence[Row]) -> str:
    """What the trainings took."""
    lines = [["student", "steps", "passes a step", "core seconds"]]
    for name in student_names(rows):
        row = next(row for row in rows if row["model"] == name and "steps" in row)
        told = [f"{row['steps']:,}", f"{row['passes_per_step']:.1f}", f"{row['core_seconds']:.0f}"]
        lines.append([name, *told])
    return markdown(lines)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--part", choices=["validation", "test"], default="test")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--passes", type=int, default=1000, help="of the students' training")
    args = parser.parse_args()
    rows = [
        row
        for row in json.loads(args.json.read_text())["rows"]
        if (row["part"], row["length"]) == (args.part, args.length)
        and row.get("passes") in (None, args.passes)
    ]
    for row in rows:
        if row["model"] == "bound":
            print(f"bound of the teacher: {row['bound']:.4f} +- {row['bound_error']:.4f} nats\n")
    print(teacher_table(rows), "", sep="\n")
    if not student_names(rows):
        return
    # Seeds are in the rankings; other tables are of the first.
    first = [row for row in rows if row["model"] not in ALL or row["seed"] == 0]
    print(student_table(first), "", cost_table(first), "", sep="\n")
    for judge, who in JUDGES.items():
        if not any(judge in row for row in rows if row["model"] in ALL):
            continue
        for by, told in ENTROPIES.items():
            head = f"nats of {who} ahead of the best teacher at equal entropy {told}"
            print(f"{head}\n\n{ranking(rows, by, judge)}\n")
    for calls in sorted({row["calls"] for row in rows if row["model"] in ALL}):
        for by, told in ENTROPIES.items():
            print(f"calls: {calls}, equal entropy {told}\n\n{matched_table(first, calls, by)}\n")


if __name__ == "__main__":
    main()
