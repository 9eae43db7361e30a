"""What samples of a masked language model are worth, and teachers at a student's diversity.

`found`: share of their runs of four letters that held-out sequences have. `pseudo_nll`: -log p of a
letter given all others under the teacher, in nats, of `SCORED` samples at `PLACES` random letters
each. `letters`: KL from the letters of samples to those of real sequences, in nats. `pairs`: the
entropy of two neighbouring letters, in nats, by which diversity is matched. `apart`: the share
of places at which two samples differ, where they have one length. `distinct`: share of samples.
`valid`, of molecules: share that RDKit reads.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase

from hf_ddistill.evaluation import pairwise_distance
from hf_ddistill.evaluation.molecules import bigram_entropy, canonical_smiles
from hf_ddistill.models import as_denoiser
from hf_ddistill.places import Places

SCORED, PLACES, RUN = 16, 16, 4
FIGURES = ("found", "pseudo_nll", "letters", "pairs", "apart", "distinct", "valid")


class Figures:
    """The figures of texts beside real ones.

    Args:
        teacher: folder of the masked language model.
        tokenizer: of it.
        real: held-out sequences.
        molecules: whether they are such.
        scored: of how many samples `pseudo_nll` is.
    """

    def __init__(
        self,
        teacher: str,
        tokenizer: PreTrainedTokenizerBase,
        real: list[str],
        molecules: bool,
        scored: int = SCORED,
    ) -> None:
        model = AutoModelForMaskedLM.from_pretrained(teacher).eval()
        self.denoiser = as_denoiser(model, tokenizer=tokenizer)
        self.tokenizer, self.molecules, self.scored = tokenizer, molecules, scored
        self.known, self.letters = {*runs(real)}, Counter("".join(real))

    def __call__(self, texts: list[str], known: Iterable[str] | None = None) -> dict[str, float]:
        """Of some texts; `known` runs are those of the real ones unless given."""
        known, own = self.known if known is None else known, runs(texts)
        told = {
            "found": sum(each in known for each in own) / max(len(own), 1),
            "pseudo_nll": self.pseudo_nll(texts),
            "letters": self.divergence(texts),
            "pairs": bigram_entropy(texts),
            "distinct": len(set(texts)) / len(texts),
        }
        length = Counter(map(len, texts)).most_common(1)[0][0]
        alike = [[ord(letter) for letter in text] for text in texts if len(text) == length]
        if len(alike) > 1:
            told["apart"] = pairwise_distance(torch.tensor(alike)) / length
        if self.molecules:
            told["valid"] = sum(text is not None for text in canonical_smiles(texts)) / len(texts)
        return told

    def divergence(self, texts: list[str]) -> float:
        """KL(samples || real) of single letters, with half a count more of each real one."""
        own = Counter("".join(texts))
        alphabet = {*own, *self.letters}
        many, real = own.total(), self.letters.total() + len(alphabet) / 2
        return sum(
            own[k] / many * math.log(own[k] / many / ((self.letters[k] + 0.5) / real))
            for k in alphabet
            if own[k]
        )

    @torch.no_grad()
    def pseudo_nll(self, texts: list[str]) -> float:
        """One mask at a time."""
        generator, total = torch.Generator().manual_seed(0), []
        mask = self.tokenizer.mask_token_id
        for text in [text for text in texts if text][: self.scored]:
            ids = torch.tensor([self.tokenizer(text)["input_ids"]])
            inner = torch.arange(1, ids.shape[1] - 1)
            chosen = inner[torch.randperm(len(inner), generator=generator)[:PLACES]]
            where = torch.arange(ids.shape[1]) == chosen[:, None]
            x_t, places = ids.masked_fill(where, mask), Places.of(where)
            said = self.denoiser.at(x_t, None, places).log_prob_of(ids[0, chosen][:, None])
            total += (-said[:, 0]).tolist()
        return sum(total) / len(total)


def runs(texts: Iterable[str]) -> list[str]:
    """All runs of letters of the length that is compared."""
    return [text[i : i + RUN] for text in texts for i in range(len(text) - RUN + 1)]


def at_diversity(
    rows: Sequence[Mapping[str, Any]], pairs: float
) -> tuple[dict[str, float], float] | None:
    """The figures of one sampler's rows at several temperatures, interpolated at a diversity, and
    the temperature there; None where all are more, or all less diverse."""
    ranked = sorted(rows, key=lambda row: row["pairs"])
    for low, high in zip(ranked, ranked[1:], strict=False):
        if low["pairs"] <= pairs <= high["pairs"]:
            share = (pairs - low["pairs"]) / max(high["pairs"] - low["pairs"], 1e-9)
            names = [name for name in (*FIGURES, "temperature") if name in low and name in high]
            mixed = {name: low[name] + share * (high[name] - low[name]) for name in names}
            return mixed, mixed.pop("temperature")
    return None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows in Markdown; beside each student the teacher of the same noise at the student's own
    diversity, in as many calls and in the most: found / pseudo_nll (temperature)."""
    names = [name for name in FIGURES if any(name in row for row in rows)]
    head = ["model", "random tokens", "calls", "temperature", *names]
    lines = [[*head, "teacher as diverse, as many calls", "most calls"]]
    lines.append(["---"] * len(lines[0]))
    teachers = [row for row in rows if row["model"] == "teacher"]
    most = max((row["calls"] for row in teachers), default=0)
    for row in sorted(rows, key=lambda row: ("real", "teacher", "student").index(row["model"])):
        student = row["model"] == "student"
        name = f"**{_objective(row)}**, seed {row['seed']}" if student else row["model"]
        name += "" if row.get("collapse_share", 1) else ", no guard"
        cells = [name + (", warned of" if row.get("warned") else "")]
        cells += [f"{row[key]:g}" if key in row else "" for key in head[1:4] if key != head[1]]
        cells.insert(1, f"{row['random_tokens']:g}" if "random_tokens" in row else "")
        cells += [f"{row[name]:.3f}" if name in row else "" for name in names]
        for calls in (row["calls"], most) if student else ():
            kind = {"random_tokens": row["random_tokens"], "calls": calls}
            same = [each for each in teachers if kind.items() <= each.items()]
            matched = at_diversity(same, row["pairs"])
            cells.append("none" if matched is None else _matched(*matched))
        lines.append(cells + [""] * (len(lines[0]) - len(cells)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _objective(row: Mapping[str, Any]) -> str:
    objective = row["objective"]
    return objective if not objective.startswith("{") else json.loads(objective)["type"]


def _matched(figures: Mapping[str, float], temperature: float) -> str:
    more = f" / {figures['valid']:.3f}" if "valid" in figures else ""
    return f"{figures['found']:.3f} / {figures['pseudo_nll']:.2f}{more} ({temperature:.2f})"
