"""What the students of `dllm.py` are judged by."""

import importlib
import inspect

import torch
from completions import distinct, known_words

from hf_ddistill import as_denoiser
from hf_ddistill.evaluation import token_entropy

LENGTH, PROMPT = 64, 32
MODULES = ("argparse", "logging", "unittest.mock", "subprocess", "datetime", "decimal", "email")
MODULES += ("socket", "threading", "collections", "inspect", "pathlib", "typing", "asyncio", "ssl")


class Ngrams:
    """A judge that shares nothing with the models: n-grams with Witten-Bell smoothing.

    p_n(c | h) = (N(h c) + T(h) p_(n-1)(c | h')) / (N(h) + T(h)), T(h) the kinds of tokens after h.
    """

    def __init__(self, tokens, tokenizer, vocabulary, order=6):
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.order, self.size, self.tables = order, len(tokenizer), []
        for n in range(1, order + 1):
            grams, counts = self._numbers(tokens[None], n).unique(return_counts=True)
            contexts, kinds = (grams // self.size).unique(return_counts=True)
            place = torch.searchsorted(contexts, grams // self.size)
            totals = torch.zeros(len(contexts)).index_add(0, place, counts.float())
            self.tables.append((grams, counts.float(), contexts, kinds.float(), totals))

    def _numbers(self, rows, n):
        return (rows.unfold(1, n, 1) * self.size ** torch.arange(n - 1, -1, -1)).sum(-1)

    def nats(self, rows, first):
        """The mean -log p of the tokens from position `first` on (at least `order` - 1)."""
        p = torch.full((len(rows), rows.shape[1] - first), 1 / self.size)
        for n, (grams, counts, contexts, kinds, totals) in enumerate(self.tables, 1):
            asked = self._numbers(rows, n)[:, first - n + 1 :]
            known = _looked_up(contexts, asked // self.size)
            kind, total = (torch.where(known >= 0, x[known], 0.0) for x in (kinds, totals))
            found = _looked_up(grams, asked)
            count = torch.where(found >= 0, counts[found], 0.0)
            p = torch.where(total > 0, (count + kind * p) / (total + kind).clamp_min(1), p)
        return float(-p.log().mean())


def _looked_up(table, asked):
    place = torch.searchsorted(table, asked.contiguous()).clamp_max(len(table) - 1)
    return torch.where(table[place] == asked, place, -1)


def docstrings():
    """English of another kind: docstrings of Python's own library."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        owners = [module, *(v for v in vars(module).values() if inspect.isclass(v))]
        found += [inspect.getdoc(owner) or "" for owner in owners]
        members = [m for owner in owners for m in vars(owner).values() if inspect.isfunction(m)]
        found += [inspect.getdoc(member) or "" for member in members]
    return "\n".join(dict.fromkeys(found))


@torch.no_grad()
def judged(model, block, prompts, thresholds, judge):
    """Rows of quality at each threshold, and at one token a call."""
    rules = {"one": "static"}
    rules |= {str(t): {"type": "threshold", "threshold": t} for t in thresholds}
    for name, rule in rules.items():
        out = model.eval().generate(
            prompts,
            max_new_tokens=LENGTH - PROMPT,
            block_size=block,
            unmasking=rule,
            return_dict_in_generate=True,
        )
        texts = judge.tokenizer.batch_decode(out.sequences[:, PROMPT:])
        new = out.sequences[:, PROMPT:]
        yield {
            "decoding": name,
            "tokens_per_call": float(new.numel() / out.calls.sum()),
            "nats": judge.nats(out.sequences, PROMPT),
            "entropy": float(token_entropy(new)),
            "distinct": distinct(new, 4),
            "known_words": known_words(texts, judge.vocabulary),
        }


@torch.no_grad()
def on_text(model, block, rows, seed=0):
    """Cross entropy on the masks (half of each block behind clean ones) and how much surer the
    student is than it is right, on a text."""
    denoiser = as_denoiser(model.eval())
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(rows.shape, generator=generator) < 0.5
    where[:, :PROMPT] = False
    x_t = rows.masked_fill(where, denoiser.diffusion.process.mask_token_id)
    log_p = denoiser.at(x_t, 1.0, where, block_size=block).log_conditional[:, 0]
    right = log_p.argmax(-1) == rows[where]
    nats = -log_p.gather(-1, rows[where][:, None]).mean()
    return {"nats": float(nats), "surer": float(log_p.amax(-1).exp().mean() - right.float().mean())}
