"""What `ar_to_diffusion.py` measures, and its plot."""

import json
import time
from itertools import cycle, pairwise
from pathlib import Path

import matplotlib
import torch
from completions import (
    CompletionJudge,
    known_words,
    word_cloze,
    words_of,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (after the choice of what it draws on)

#: 25, the strong ones first.
COLOURS = [*plt.cm.tab20.colors[::2], *plt.cm.tab20.colors[1::2], *plt.cm.tab20b.colors[::4]]


def share_of_words(args, tokenizer, train):
    """A reward: the share of the words that a row was given which occur in the corpus."""
    vocabulary = frozenset(words_of(tokenizer.decode(train)))

    def reward(x_0, drawn):
        texts = tokenizer.batch_decode(x_0[:, args.prompt_length :])
        return torch.tensor([known_words([text], vocabulary) for text in texts])

    return reward


class Figures:
    """The rows of `ar_to_diffusion.json`; one that is there is not measured again."""

    def __init__(self, args, tokenizer, model, train, held_out):
        self.args, self.tokenizer = args, tokenizer
        self.file = args.output / "ar_to_diffusion.json"
        self.rows = json.loads(self.file.read_text())["rows"] if self.file.exists() else []
        words = frozenset(words_of(tokenizer.decode(train)))
        self.judge = CompletionJudge(model, tokenizer, words)
        generator = torch.Generator().manual_seed(args.seed)
        starts = torch.randint(
            len(held_out) - args.judged_prompt_length, (args.samples,), generator=generator
        )
        prompts = held_out.unfold(0, args.judged_prompt_length, 1)[starts]
        drawn = args.words, args.judged_prompt_length
        text = tokenizer.decode(held_out, skip_special_tokens=True)
        self.tasks = {
            "completion": prompts,
            "word": word_cloze(text, tokenizer, *drawn, given=3, shortest=7, generator=generator),
        }

    def lengths(self, task, block_size=1):
        """New tokens: whole blocks that hold the answer."""
        new = self.args.new_tokens if task == "completion" else self.args.judged_prompt_length // 4
        return max(new, block_size)

    def add(self, task, decode, **about):
        """Measure what `decode(prompts)` gives, unless there is a row about it."""
        about = {**about, "task": task}
        if any(about.items() <= row.items() for row in self.rows):
            return
        started, given = time.monotonic(), self.tasks[task]
        prompts = given if task == "completion" else given.prompts
        sequences, calls = decode(prompts)
        new = sequences.shape[1] - prompts.shape[1]
        row = {**about, "calls": calls, "tokens_per_call": new / calls}
        row["seconds"] = time.monotonic() - started
        if task == "completion":
            row |= self.judge(sequences, new)
            matched = ar_nll_at(self.rows, row["ngram_entropy"])
            row["excess_nll"] = None if matched is None else row["nll"] - matched
        else:
            texts = self.tokenizer.batch_decode(sequences[:, prompts.shape[1] :])
            row["accuracy"] = given.accuracy(texts)
        self.rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        self.write()

    def write(self):
        """All rows and the settings."""
        told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self.args).items()}
        self.file.write_text(json.dumps({"rows": self.rows, "setup": told}, indent=1) + "\n")


def ar_nll_at(rows, entropy):
    """The language model's nll at the temperature at which its n-grams have this entropy.

    Between the two measured temperatures around it, linear; None outside of all.
    """
    known = sorted(
        (row["ngram_entropy"], row["nll"])
        for row in rows
        if row["model"] == "language model" and row["task"] == "completion"
    )
    for (low, below), (high, above) in pairwise(known):
        if low <= entropy <= high and low < high:
            return below + (above - below) * (entropy - low) / (high - low)
    return None


def curves(rows, panel, kind, metric, groups):
    """One colour for each group: thresholds o, static by confidence x, from left to right +."""
    for colour, (label, members) in zip(cycle(COLOURS), groups.items(), strict=False):
        for rule, style in (("threshold", "o-"), ("static", "x:"), ("left to right", "+:")):
            points = sorted(
                (row["tokens_per_call"], row[metric])
                for row in members
                if row["rule"].startswith(rule)
                and (row["task"], row["temperature"]) == kind
                and row.get(metric) is not None
            )
            if points:
                told = label if rule == "threshold" else None
                panel.plot(*zip(*points, strict=True), style, color=colour, label=told, ms=4)
    for row in rows:
        if row["model"] == "language model" and (row["task"], row["temperature"]) == kind:
            panel.axhline(row.get(metric) or 0.0, color="black", lw=0.8, ls="--")


def plot(rows, block_size, file):
    """Quality against tokens per call: by objective at one block size, by block size for OPDLM."""
    students = [row for row in rows if row["model"] != "language model"]
    names = dict.fromkeys(row["model"] for row in students if row["block_size"] == block_size)
    by_model = {
        name: [r for r in students if r["model"] == name and r["block_size"] == block_size]
        for name in names
    }
    by_block = {
        f"opdlm, blocks of {size}": [
            r for r in students if r["model"] == "opdlm" and r["block_size"] == size
        ]
        for size in sorted({row["block_size"] for row in students})
    }
    kinds = {
        "nll beyond the LM's at the same entropy": (("completion", 1.0), "excess_nll"),
        "share of words completed": (("word", 0.0), "accuracy"),
        "n-gram entropy": (("completion", 1.0), "ngram_entropy"),
    }
    figure, panels = plt.subplots(2, 3, figsize=(17, 9), layout="constrained")
    for line, groups in zip(panels, (by_model, by_block), strict=True):
        for panel, (title, (kind, metric)) in zip(line, kinds.items(), strict=True):
            curves(rows, panel, kind, metric, groups)
            panel.set(title=title, xlabel="tokens per call")
        line[0].set_ylim(bottom=0)
        line[-1].legend(
            *line[0].get_legend_handles_labels(),
            fontsize=8,
            bbox_to_anchor=(1, 1),
            loc="upper left",
        )
    figure.savefig(file, dpi=110)
    plt.close(figure)
