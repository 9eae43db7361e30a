"""Tiny models, tokenizers and calls for the tests of the command line."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hf_ddistill.cli import main
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion

#: The smallest network of `hf-ddistill teacher`, and the shortest training.
SMALL = ["--hidden-size", "16", "--layers", "1", "--heads", "2"]
SHORT = ["--steps", "1", "--batch-size", "4", "--cpu"]


def run(*argv):
    """The exit code of a call in this process."""
    try:
        return main(list(map(str, argv)))
    except SystemExit as stop:
        return stop.code


def refused(capsys, *argv):
    """What a refused call says: exit code 2, and one sentence on stderr."""
    capsys.readouterr()
    code = run(*argv)
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert said.startswith("hf-ddistill") and "\n" not in said, said
    return said


def words(special=("[PAD]", "[UNK]", "[MASK]"), count=20):
    """A tokenizer of words w0, w1, ... behind its special tokens: the mask is in their midst."""
    names = [*special, *(f"w{i}" for i in range(count))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"[PAD]": "pad_token", "[UNK]": "unk_token", "[MASK]": "mask_token"}
    roles |= {"[BOS]": "bos_token", "[EOS]": "eos_token"}
    given = {role: name for name, role in roles.items() if name in special}
    return PreTrainedTokenizerFast(tokenizer_object=core, **given)


def text(file, rows=32, length=8):
    """A file of lines of such words."""
    lines = (" ".join(f"w{(i + j) % 20}" for j in range(length)) for i in range(rows))
    file.write_text("\n".join(lines))
    return file


def ddit(folder, **settings):
    """The folder of a tiny DDiT over 24 tokens, the last of them the mask."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 24, "mask_token_id": 23, "max_position_embeddings": 8, **settings}
    model = DDiTForDiscreteDiffusion(DDiTConfig(**sizes))
    model.save_pretrained(folder)
    return folder


def bert(folder, tokenizer=None, **settings):
    """The folder of a tiny BERT that does not say which token is its mask."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": 23, "max_position_embeddings": 16, **settings}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
