"""Small models under the names that the pages use, so that their snippets run offline."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_ddistill.training import DiscreteDiffusionConfig

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
WORDS = ["<pad>", "</s>", "<unk>", "<mask>", *"Once upon a time The state of the union is".split()]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "vocab_size": 60, "max_position_embeddings": 256}
CAUSAL = ("causal-lm", "HuggingFaceTB/SmolLM2-135M")
#: Steps of a training, however many a snippet asks for.
STEPS = 2


def tokenizer(without_mask: bool) -> PreTrainedTokenizerFast:
    """Words, divided by spaces."""
    table = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {
        key: word for key, word in SPECIAL.items() if key != "mask_token" or not without_mask
    }
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def lay_out(folder: Path) -> None:
    """The package, models and data, under the names that snippets give them."""
    torch.manual_seed(0)
    (folder / "hf_ddistill").symlink_to(Path(__file__).resolve().parents[2] / "hf_ddistill")
    for name in CAUSAL:
        LlamaForCausalLM(LlamaConfig(**SHAPE, eos_token_id=1)).save_pretrained(folder / name)
        tokenizer(without_mask=True).save_pretrained(folder / name)
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(folder / "masked-lm")
    tokenizer(without_mask=False).save_pretrained(folder / "masked-lm")
    rows = [{"text": "Once upon a time"}, {"text": "The state of the union is"}] * 8
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)


def shorten_trainings(monkeypatch) -> None:  # noqa: ANN001
    """Trainings of `STEPS` steps on the CPU, whatever their settings say."""
    complete = DiscreteDiffusionConfig.__post_init__

    def shortened(self: DiscreteDiffusionConfig) -> None:
        self.max_steps, self.use_cpu, self.report_to = STEPS, True, "none"
        self.disable_tqdm = True
        complete(self)

    monkeypatch.setattr(DiscreteDiffusionConfig, "__post_init__", shortened)
