"""Teachers with their data, and what judges samples of them, for `safety.py`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from hf_ddistill.evaluation.digits_judge import DigitsJudge
from hf_ddistill.hub import load_model
from hf_ddistill.laboratory import sequence_numbers
from hf_ddistill.laboratory.problems import exact_law

STEPS, LETTERS, LENGTH = 40, 10, 8
#: Of the text: what is read of it, and a row.
ALPHABET, ROW = " abcdefghijklmnopqrstuvwxyz", 32


@dataclass(frozen=True)
class Problem:
    """A teacher with its data.

    Args:
        teacher: makes the model.
        rows: of the data.
        judge: of samples (N, L); lower is better.
        samples: how many are judged.
        calls: of student and teacher.
        settings: of the training.
        tokenizer: of the model, if it has one.
    """

    teacher: Callable[[], torch.nn.Module]
    rows: list[dict[str, Any]]
    judge: Callable[[Tensor], float]
    samples: int
    calls: int
    settings: dict[str, Any]
    tokenizer: object = None


def masked_lm(rows: Tensor, hidden: int, layers: int, steps: int) -> BertForMaskedLM:
    """A masked LM that learns rows of letters from 0; the mask is the last token."""
    torch.manual_seed(0)
    mask = int(rows.max()) + 1
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 2 * hidden}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": rows.shape[1]}
    model = BertForMaskedLM(BertConfig(vocab_size=mask + 1, mask_token_id=mask, **sizes, **quiet))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        some = rows[torch.randint(len(rows), (512,))] if len(rows) > 512 else rows
        hidden_there = torch.rand(some.shape) < torch.rand(len(some), 1).clamp_min(0.1)
        labels = torch.where(hidden_there, some, -100)
        model(torch.where(hidden_there, mask, some), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def letters() -> Problem:
    """Two letters that are equal."""
    rows = torch.arange(2)[:, None].expand(2, 2).repeat(32, 1)

    def judge(samples: Tensor) -> float:
        law = torch.bincount(2 * samples[:, 0] + samples[:, 1], minlength=4) / len(samples)
        return float((law - torch.tensor([0.5, 0.0, 0.0, 0.5])).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 64, "max_steps": 5 * STEPS}
    return Problem(_copies(masked_lm(rows, 16, 2, 150)), _listed(rows), judge, 8000, 1, settings)


def patches() -> Problem:
    """The standard problem of the exact laboratory."""
    exact = exact_law("digits")
    drawn = torch.multinomial(exact.law, 8192, True, generator=torch.Generator().manual_seed(0))
    rows = exact.sequences[drawn]

    def judge(samples: Tensor) -> float:
        number = sequence_numbers(samples, 2)
        law = torch.bincount(number, minlength=len(exact.law)) / len(samples)
        return float((law - exact.law).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 64, "max_steps": 5 * STEPS}
    return Problem(_copies(masked_lm(rows, 32, 2, 600)), _listed(rows), judge, 20_000, 2, settings)


def characters(text: Path) -> Problem:
    """Rows of a text, of letters and spaces."""
    words = "".join(c if c in ALPHABET else " " for c in text.read_text().lower()).split()
    known = " ".join(words)
    cut = 9 * len(known) // 10
    tokens = torch.tensor([ALPHABET.index(c) for c in known[: cut - cut % ROW]])
    mixed = torch.randperm(len(tokens) // ROW, generator=torch.Generator().manual_seed(0))
    rows = tokens.view(-1, ROW)[mixed[:20_000]]
    fours = {known[i : i + 4] for i in range(cut, len(known) - 3)}
    real = torch.bincount(tokens, minlength=len(ALPHABET)) / len(tokens)

    def judge(samples: Tensor) -> float:
        drawn = ["".join(ALPHABET[i] for i in row) for row in samples.tolist()]
        own = [line[i : i + 4] for line in drawn for i in range(ROW - 3)]
        law = torch.bincount(samples.flatten(), minlength=len(ALPHABET)) / samples.numel()
        unknown = 1 - sum(each in fours for each in own) / len(own)
        return unknown + float((law - real).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 32, "max_steps": 2 * STEPS}
    return Problem(_copies(masked_lm(rows, 64, 2, 600)), _listed(rows), judge, 1000, 8, settings)


def sentences() -> Problem:
    """Rows through ten letters, from any of them on."""
    start = torch.randint(LETTERS, (512, 1), generator=torch.Generator().manual_seed(0))
    rows = (start + torch.arange(LENGTH)) % LETTERS

    def judge(samples: Tensor) -> float:
        right = samples.diff(dim=1) % LETTERS == 1
        law = torch.bincount(samples.flatten(), minlength=LETTERS) / samples.numel()
        return float(1 - right.float().mean() + (law - 1 / LETTERS).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 32, "max_steps": STEPS}
    return Problem(_copies(masked_lm(rows, 32, 1, 400)), _listed(rows), judge, 2000, 4, settings)


def digits() -> Problem:
    """Those of scikit-learn, with the teacher of the package."""
    judge = DigitsJudge()
    split = judge.split
    labels = split.train_labels.tolist()
    rows = [
        {**row, "class_labels": label}
        for row, label in zip(_listed(split.train_tokens), labels, strict=True)
    ]
    teacher = str(files("hf_ddistill") / "assets/digits_teacher")
    settings = {"per_device_train_batch_size": 32, "max_steps": STEPS}
    return Problem(
        lambda: load_model(teacher),
        rows,
        lambda samples: float(judge(samples)["fd"]),
        1000,
        4,
        settings,
    )


def sapiens(folder: str, sequences: Path) -> Problem:
    """A masked LM of antibodies."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = sequences.read_text().split()
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts[:-300]]
    length = Counter(len(row["input_ids"]) for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if len(row["input_ids"]) == length]
    known = {text[i : i + 4] for text in texts[-300:] for i in range(len(text) - 3)}

    def judge(samples: Tensor) -> float:
        texts = ["".join(tokenizer.convert_ids_to_tokens(row[1:-1].tolist())) for row in samples]
        own = [text[i : i + 4] for text in texts for i in range(len(text) - 3)]
        return 1 - sum(each in known for each in own) / len(own)

    def teacher() -> torch.nn.Module:
        return AutoModelForMaskedLM.from_pretrained(folder)

    settings = {"per_device_train_batch_size": 16, "max_steps": 30, "max_length": length}
    return Problem(teacher, rows, judge, 200, 4, settings, tokenizer)


def _copies(model: torch.nn.Module) -> Callable[[], torch.nn.Module]:
    return lambda: copy.deepcopy(model)


def _listed(rows: Tensor) -> list[dict[str, Any]]:
    return [{"input_ids": row} for row in rows.tolist()]
