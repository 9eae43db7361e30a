"""The table of `scoreboard_molecules.py`, of the rows that it has written.

python examples/benchmarks/scoreboard_molecules_table.py examples/results/molecules.json
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

FIGURES = ("valid", "unique", "novel", "fcd", "scaffolds", "scaffolds_found", "diversity")
HEAD = ("model", "calls", "sampler", "temperature", "seeds", *FIGURES)
MATCHED = "the teacher as diverse, in as many calls: valid, fcd (temperature)"


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
        for name in FIGURES:
            there = [each[name] for each in same if each[name] is not None]
            row[name] = sum(there) / len(there) if len(there) == len(same) else None
        valid = [each["valid"] for each in same]
        row["spread"] = (max(valid) - min(valid)) / 2
        found.append(row)
    return found


def cells(row, teacher):
    """Of one line."""
    out = [row["model"], str(row["nfe"] or "—"), row["sampler"]]
    out += [f"{row['temperature']:g}" if row["temperature"] else "", str(row["seeds"])]
    for name in FIGURES:
        text = "—" if row[name] is None else f"{row[name]:.{2 if name == 'fcd' else 3}f}"
        out.append(
            f"{text} ± {row['spread']:.3f}" if name == "valid" and row["seeds"] > 1 else text
        )
    if row["model"] in ("real", "teacher") or row["diversity"] is None:
        return [*out, ""]
    same = [each for each in teacher if each["nfe"] == row["nfe"] and each["diversity"]]
    match = at_diversity(same, row["diversity"])
    if match is None:
        return [*out, "none is"]
    fcd = "—" if match["fcd"] is None else f"{match['fcd']:.2f}"
    return [*out, f"{match['valid']:.3f}, {fcd} ({match['temperature']:.2f})"]


def table(rows):
    """All rows in Markdown."""
    rows = mean_rows(rows)
    teacher = [r for r in rows if r["model"] == "teacher" and r["sampler"] == "ancestral"]
    lines = [[*HEAD, MATCHED], ["---"] * (len(HEAD) + 1)]
    lines += [cells(row, teacher) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    print(table(json.loads(parser.parse_args().rows.read_text())["rows"]))
