"""The judge of text: how likely it is under a causal language model that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from hf_ddistill.evaluation.generative_perplexity import CITATION, GenerativePerplexity
from hf_ddistill.evaluation.judge import Figures, Judge, Samples, Source
from hf_ddistill.models.loading import as_name, load_checkpoint
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.models.tokenizers import load_tokenizer


@dataclass(frozen=True, eq=False)
class PerplexityJudge(Judge):
    """Perplexity under a causal language model, always with the entropy of the same samples.

    A bare name of a causal language model, a folder or Hub id, means this judge.

    Args:
        model: the language model, or its name (it is then loaded in float32).
        tokenizer: its own, or its name; that of the model's name if None.
        add_start_token: put the model's start token before each text.
        batch_size: texts in one forward pass.

    Raises:
        ValueError: when it is first asked, if there is no such model or tokenizer.
    """

    id: ClassVar[str] = "perplexity"
    citation: ClassVar[str] = CITATION
    primary: ClassVar[str] = "perplexity"
    higher_is_better: ClassVar[bool] = False
    takes: ClassVar[str] = "texts"

    model: Any
    tokenizer: Any = None
    add_start_token: bool = False
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("model", "tokenizer"):
            object.__setattr__(self, name, as_name(getattr(self, name)))

    @cached_property
    def metric(self) -> GenerativePerplexity:
        """The model and its tokenizer, loaded."""
        model, tokenizer = self.model, self.tokenizer
        if isinstance(model, str):
            tokenizer = model if tokenizer is None else tokenizer
            model = load_checkpoint(AutoModelForCausalLM, model, dtype=torch.float32)
        if isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer)
        return GenerativePerplexity(
            model,
            tokenizer,
            add_start_token=self.add_start_token,
            batch_size=self.batch_size,
        )

    def __call__(self, samples: Samples) -> Figures:
        """`perplexity`, `nll` (nats per scored token), `entropy`, `corpus_entropy`, and how many
        tokens were scored and samples cut or empty: see `GenerativePerplexity`."""
        return self.metric.compute(predictions=list(samples))

    def suited_to(self, source: Source) -> Self:
        """The same judge, its model on the source's device."""
        super().suited_to(source)
        self.metric.model.to(source.device)
        return self

    @classmethod
    def claimed(cls, name: str) -> Self | None:
        """One for the name of a causal language model.

        Raises:
            ValueError: if there is no model of this name.
        """
        return cls(name) if is_causal_name(name) else None

    def to_config(self) -> dict[str, Any]:
        """Models and tokenizers by the names that they were loaded from."""
        named = {name: getattr(self, name) for name in ("model", "tokenizer")}
        named = {k: getattr(v, "name_or_path", v) for k, v in named.items()}
        more = {"add_start_token": self.add_start_token, "batch_size": self.batch_size}
        return {"type": self.id, **named, **more}

    @classmethod
    def example(cls) -> tuple[Self, Samples]:
        """A language model of random weights and three words."""
        words = {"[UNK]": 0, "a": 1, "b": 2}
        backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        config = LlamaConfig(vocab_size=len(words), num_attention_heads=2, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        tokenizer = FastTokenizer(tokenizer_object=backend, unk_token="[UNK]")
        return cls(model, tokenizer), ["a b a", "b b", "a"]
