"""Generative perplexity: how likely samples are under another, autoregressive language model.

N samples, L positions, V vocabulary of the judging model; log-likelihoods in nats and float64.
"""

from __future__ import annotations

import os

import datasets
import evaluate
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_ddistill.evaluation.diversity import corpus_entropy, pad_tokens, token_entropy
from hf_ddistill.models.loading import as_name
from hf_ddistill.shapes import Tokens, Where

CITATION = (
    "Lou et al., Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution, "
    "2023, arXiv:2310.16834; Pynadath et al., Generative Frontiers: Why Evaluation Matters for "
    "Diffusion Language Models, 2026, arXiv:2604.02718"
)


@torch.no_grad()
def token_nll(
    model: PreTrainedModel, tokens: Tokens, mask: Tensor, *, batch_size: int = 8
) -> Tensor:
    """-log p(token l | tokens < l) of a causal language model, 0 where nothing is scored.

    Args:
        model: a causal language model; run in evaluation mode and left in the mode it was in.
        tokens: (N, L) int64.
        mask: (N, L), True or 1 where there is a token; padding may be on either side.
        batch_size: rows in one forward pass.

    Returns:
        (N, L - 1) float64, for the second to the last token of each row, packed to the left.

    Raises:
        ValueError: if a token is outside the model's vocabulary, or a row longer than it can read.
    """
    if batch_size < 1:
        raise ValueError(f"Got batch_size={batch_size}; it must be at least 1.")
    mask = mask.bool()
    # Packed to the left, padding comes last: a causal model never sees it, whatever its positions.
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)
    mask = mask.gather(1, order)
    tokens = tokens.gather(1, order).masked_fill(~mask, 0)
    _check_readable(model, tokens, mask)
    was_training = model.training
    model.eval()
    try:
        rows = []
        for start in range(0, len(tokens), batch_size):
            ids = tokens[start : start + batch_size].to(model.device)
            attention_mask = mask[start : start + batch_size].to(model.device, torch.int64)
            logits = model(input_ids=ids, attention_mask=attention_mask).logits
            # Row by row: float64 copies of all logits would be the largest tensor of the run.
            rows += [_row_nll(row, row_ids) for row, row_ids in zip(logits, ids, strict=True)]
    finally:
        model.train(was_training)
    return torch.stack(rows).cpu() * mask[:, 1:].cpu()


def generative_perplexity(
    model: PreTrainedModel,
    tokens: Tokens,
    mask: Tensor | None = None,
    *,
    bos_token_id: int | None = None,
    batch_size: int = 8,
) -> dict[str, float]:
    """Perplexity of samples under a causal language model, with the entropy of the same samples.

    perplexity = exp( sum_n sum_l -log p(x_nl | x_n,<l) / number of scored tokens )

    One is never reported without the other: a sampler that repeats itself has a low perplexity
    and a low entropy. The first token of a sample has no context and is not scored, unless it is
    given a beginning-of-sequence token.

    References:
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
        2023), arXiv:2310.16834.
        Generative Frontiers: Why Evaluation Matters for Diffusion Language Models (Pynadath et
        al., 2026), arXiv:2604.02718: perplexity and entropy are two parts of one divergence.

    Args:
        model: the judge.
        tokens: (N, L) int64, in the judge's vocabulary.
        mask: (N, L), True or 1 where there is a token; everywhere where it is not given.
        bos_token_id: put before every sample; itself neither scored nor in the entropy.
        batch_size: samples in one forward pass.

    Returns:
        `perplexity`, `nll` (nats per scored token), `entropy` (mean per sample) and
        `corpus_entropy` (nats), `scored_tokens`.

    Raises:
        ValueError: if nothing can be scored, a sample is empty, a token is outside the judge's
            vocabulary or a sample longer than the judge can read.
    """
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    entropies = {
        "entropy": token_entropy(tokens, mask),
        "corpus_entropy": corpus_entropy(tokens, mask),
    }
    if bos_token_id is not None:
        tokens = torch.nn.functional.pad(tokens, (1, 0), value=bos_token_id)
        mask = torch.nn.functional.pad(mask, (1, 0), value=True)
    scored = int((mask.sum(1) - 1).sum())
    if scored == 0:
        raise ValueError(
            "Got samples of one token each and no bos_token_id; a first token without context "
            "is not scored."
        )
    nll = token_nll(model, tokens, mask, batch_size=batch_size).sum() / scored
    return {"perplexity": float(nll.exp()), "nll": float(nll), **entropies, "scored_tokens": scored}


class GenerativePerplexity(evaluate.Metric):
    """`generative_perplexity` as a metric: `compute(predictions=texts or lists of token ids)`.

    perplexity = exp( sum_n sum_l -log p(x_nl | x_n,<l) / number of scored tokens )

    Samples come as a model gave them: empty ones are left out and those that the judge cannot read
    to their end are cut, and `empty_samples` and `cut_samples` say how many. Where nothing can be
    scored, the figures are NaN.

    References:
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
        2023), arXiv:2310.16834.
        Generative Frontiers: Why Evaluation Matters for Diffusion Language Models (Pynadath et
        al., 2026), arXiv:2604.02718: perplexity and entropy are two parts of one divergence.

    Args:
        model: a causal language model, or its name or path (then loaded in float32: in bfloat16
            the perplexity is another number).
        tokenizer: the judge's, or its name or path; not given, the one saved with a model that
            was given by name. Texts need it; token ids do not. Its own special tokens are not
            added to a text.
        add_start_token: put the judge's beginning-of-sequence token before each sample.
        batch_size: samples in one forward pass.
        **kwargs: of `evaluate.Metric` (cache_dir, keep_in_memory, experiment_id, ...).

    Raises:
        ValueError: if a token is outside the judge's vocabulary; if texts come without a tokenizer;
            or if `add_start_token` and the judge has no such token.
    """

    def __init__(
        self,
        model: PreTrainedModel | str | os.PathLike,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
        *,
        add_start_token: bool = False,
        batch_size: int = 8,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        model, tokenizer = as_name(model), as_name(tokenizer)
        if isinstance(model, str):
            tokenizer = model if tokenizer is None else tokenizer
            model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.bos_token_id = self._start_token() if add_start_token else None

    def _start_token(self) -> int:
        source = self.model.config if self.tokenizer is None else self.tokenizer
        if source.bos_token_id is None:
            raise ValueError(
                f"Got add_start_token=True, but {type(source).__name__} has no bos_token_id."
            )
        return source.bos_token_id

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Perplexity of samples under a causal language model, and their entropy.",
            citation=CITATION,
            inputs_description="predictions: texts, or lists of token ids, one a sample.",
            features=[
                datasets.Features({"predictions": text}),
                datasets.Features({"predictions": ids}),
            ],
            reference_urls=["https://arxiv.org/abs/2310.16834", "https://arxiv.org/abs/2604.02718"],
        )

    def _compute(self, predictions: list[str] | list[list[int]]) -> dict[str, float]:
        if isinstance(predictions[0], str):
            if self.tokenizer is None:
                raise ValueError("Got texts but no tokenizer; give the judge's, or token ids.")
            # `verbose`: that a sample is too long is counted, and not warned of.
            encoded = self.tokenizer(list(predictions), add_special_tokens=False, verbose=False)
            predictions = encoded["input_ids"]
        started = self.bos_token_id is not None
        window = _window(self.model)
        window = None if window is None else window - started
        kept = [list(ids)[:window] for ids in predictions if len(ids)]
        counts = {
            "empty_samples": len(predictions) - len(kept),
            "cut_samples": sum(window is not None and len(ids) > window for ids in predictions),
        }
        if not any(len(ids) + started > 1 for ids in kept):
            names = ("perplexity", "nll", "entropy", "corpus_entropy")
            return {**dict.fromkeys(names, float("nan")), "scored_tokens": 0, **counts}
        tokens, mask = pad_tokens(kept)
        figures = generative_perplexity(
            self.model,
            tokens,
            mask,
            bos_token_id=self.bos_token_id,
            batch_size=self.batch_size,
        )
        return {**figures, **counts}


def _row_nll(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[:-1].double(), ids[1:], reduction="none")


def _window(model: PreTrainedModel) -> int | None:
    """How many tokens a model reads; None for a config without the field, which names no limit
    (state-space and relative-position models)."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _check_readable(model: PreTrainedModel, tokens: Tokens, mask: Where) -> None:
    config, limit = model.config.get_text_config(), _window(model)
    if limit is not None and tokens.shape[1] > limit:
        raise ValueError(
            f"Got samples of up to {tokens.shape[1]} tokens (a start token included); "
            f"{type(model).__name__} reads at most {limit}."
        )
    low, high = int(tokens[mask].min()), int(tokens[mask].max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"Got token ids from {low} to {high}; {type(model).__name__} knows "
            f"[0, {config.vocab_size}). Decode with the sampler's tokenizer and give texts."
        )
