"""The table of `scoreboard_molecules.py`, of the rows that it has written.

python examples/benchmarks/scoreboard_molecules_table.py examples/results/molecules.json
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from scoreboard_shared import short
from scoreboard_shared import table as markdown

#: With their decimals. The rows have more than these.
FIGURES = {"valid": 3, "unique": 3, "novel": 3, "fcd": 2, "diversity": 3}
HEAD = ["model", "thousand passes", "sampler", "temperature", "seeds", "calls", *FIGURES]
MATCHED = ("the teacher as diverse: valid", "fcd")
OWN = "its own"  # sampler of a student, beside which the teacher draws by ancestral steps


def at_diversity(rows, diversity):
    """The figures of one sampler's rows at several temperatures, interpolated at a diversity,
    `temperature` among them; None where all are more, or all less diverse."""
    ranked = sorted(rows, key=lambda row: row["diversity"])
    for low, high in zip(ranked, ranked[1:], strict=False):
        if low["diversity"] <= diversity <= high["diversity"]:
            share = (diversity - low["diversity"]) / max(
                high["diversity"] - low["diversity"], 1e-12
            )
            return {
                name: None
                if None in (low[name], high[name])
                else low[name] + share * (high[name] - low[name])
                for name in ("valid", "fcd", "temperature")
            }
    return None


def mean_rows(rows):
    """One row for each model, number of calls, sampler and temperature: means over the seeds, and
    in `spread` half of what the seeds are apart in validity; in the order of the first of them."""
    kinds = defaultdict(list)
    for row in rows:
        kinds[row["model"], row["nfe"], row["sampler"], row["temperature"]].append(row)
    found = []
    for (model, nfe, sampler, temperature), same in kinds.items():
        row = {"model": model, "nfe": nfe, "sampler": sampler, "temperature": temperature}
        row["seeds"] = len(same)
        row["passes"] = sum(each.get("passes", 0) for each in same) / len(same)
        for name in FIGURES:
            there = [each[name] for each in same if each[name] is not None]
            row[name] = sum(there) / len(there) if len(there) == len(same) else None
        valid = [each["valid"] for each in same]
        row["spread"] = (max(valid) - min(valid)) / 2
        found.append(row)
    return found


def matched(row, teacher):
    """What the teacher has in as many calls, by the same sampler, at the temperature at which it
    is as diverse; nothing where it is at none."""
    sampler = "ancestral" if row["sampler"] == OWN else row["sampler"]
    same = [
        each
        for each in teacher
        if (each["nfe"], each["sampler"]) == (row["nfe"], sampler) and each["diversity"]
    ]
    found = None if row["diversity"] is None else at_diversity(same, row["diversity"])
    return found or {"valid": None, "fcd": None}


def joined(values, decimals):
    """Those of several numbers of calls."""
    return " / ".join(short(value, decimals) or "—" for value in values)


def line(rows, teacher):
    """The cells of one model, sampler and temperature at all its numbers of calls."""
    first = rows[0]
    out = [first["model"], f"{first['passes'] / 1000:.0f}" if first["passes"] else ""]
    out.append(first["sampler"])
    out += [f"{first['temperature']:g}" if first["temperature"] else "", str(first["seeds"])]
    out.append(" / ".join(str(row["nfe"]) for row in rows) if first["nfe"] else "")
    for name, decimals in FIGURES.items():
        text = joined([row[name] for row in rows], decimals)
        if name == "valid" and first["seeds"] > 1:
            text += f" (± {short(max(row['spread'] for row in rows))})"
        out.append(text)
    if first["model"] in ("real", "teacher"):
        return [*out, "", ""]
    found = [matched(row, teacher) for row in rows]
    return out + [
        joined([each[name] for each in found], FIGURES[name]) for name in ("valid", "fcd")
    ]


def table(rows):
    """All rows in Markdown: a line for each model, sampler and temperature."""
    kinds = defaultdict(list)
    for row in mean_rows(rows):
        kinds[row["model"], row["sampler"], row["temperature"]].append(row)
    teacher = [row for (model, *_), same in kinds.items() if model == "teacher" for row in same]
    return markdown([*HEAD, *MATCHED], [line(same, teacher) for same in kinds.values()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    print(table(json.loads(parser.parse_args().rows.read_text())["rows"]))
