"""Data sets in memory, in files and as streams; text that is packed; rows that are padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from training_runs import MASK, differing, distilling, probe, rows, teaching, tiny, weights
from transformers import PreTrainedTokenizerFast

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.training.data import TokenCollator
from hf_ddistill.training.preparation import prepared
from hf_ddistill.training.samples import draw_samples

TEXT = (Path(__file__).parents[2] / "LICENSE").read_text()[:6000]
SEQUENCE = {"token_shape": None, "position_embedding": "rotary"}


def tokenizer():
    """One token for each letter of the text, and three special ones."""
    letters = {letter: i for i, letter in enumerate(sorted(set(TEXT) - {"\n"}))}
    special = {"[UNK]": len(letters), "[END]": len(letters) + 1, "[MASK]": len(letters) + 2}
    built = Tokenizer(models.WordLevel(letters | special, "[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=built, unk_token="[UNK]", eos_token="[END]", mask_token="[MASK]"
    )


def reader(tokens, **settings):
    """A model over the tokenizer's letters."""
    return tiny(vocab_size=len(tokens), mask_token_id=tokens.mask_token_id, **SEQUENCE, **settings)


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return str(file)


@pytest.mark.slow
def test_the_same_rows_from_memory_and_from_a_parquet_file_train_alike(tmp_path):
    data = rows(32, labels=True)
    Dataset.from_list(data).to_parquet(tmp_path / "rows.parquet")
    file = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    tensors = [{k: torch.tensor(v) for k, v in row.items()} for row in data]
    ended = []
    for source in (data, tensors, file, file.with_format("torch")):
        trainer = teaching(tmp_path, tiny(num_classes=10), source)
        trainer.train()
        ended.append(weights(trainer.model))
    assert differing(ended[0], weights(tiny(num_classes=10)))
    assert not any(differing(other, ended[0]) for other in ended[1:])


def test_samples_of_a_model_with_a_noise_input_take_new_noise_in_each_call():
    model, given = tiny(noise_dim=2), []
    model.register_forward_pre_hook(
        lambda module, args, inputs: given.append(inputs["noise"]), with_kwargs=True
    )
    denoiser, shape = as_denoiser(model, Diffusion(Absorbing(MASK + 1))), (3, 64)
    drawn = [draw_samples(denoiser, shape, 2, 2, torch.Generator().manual_seed(1)) for _ in "ab"]
    assert torch.equal(*drawn) and len(given) == 8
    first = torch.cat([noise.flatten() for noise in given[:4]])
    assert torch.equal(first, torch.cat([noise.flatten() for noise in given[4:]]))
    # 0 where the first call has revealed a token, and nowhere in the first call.
    assert all(bool((noise != 0).all()) for noise in given[0:4:2])
    drawn = first[first != 0]
    assert len(drawn.unique()) == len(drawn) > 2 * 3 * 64
    assert abs(drawn.mean()) < 0.15 and abs(drawn.std() - 1) < 0.15


def test_text_is_tokenised_ended_and_packed_without_a_gap(tmp_path, text_file):
    tokens = tokenizer()
    data = load_dataset("text", data_files=text_file, split="train")
    packed = prepared(data, tokens, 32)
    stream = []
    for line in TEXT.splitlines():
        stream += tokens(line)["input_ids"] + [tokens.eos_token_id]
    whole = len(stream) // 32
    assert packed["input_ids"][:] == [stream[32 * i : 32 * i + 32] for i in range(whole)]

    trainer = teaching(
        tmp_path, reader(tokens), data, processing_class=tokens, max_length=32, num_eval_samples=2
    )
    assert len(trainer.train_dataset) == whole
    trainer.train()
    trainer.eval_dataset = trainer.train_dataset.select(range(8))
    trainer.evaluate()
    written = (tmp_path / "samples" / "3.json").read_text()
    assert "[MASK]" not in written and trainer.sample(2).shape == (2, 32)


def test_streamed_text_is_packed_into_the_same_rows_and_trains(tmp_path, text_file):
    tokens = tokenizer()
    whole = prepared(load_dataset("text", data_files=text_file, split="train"), tokens, 32)
    data = load_dataset("text", data_files=text_file, split="train", streaming=True)
    stream = prepared(data, tokens, 32)
    assert [row["input_ids"] for row in stream] == whole["input_ids"][:]

    objective = probe()
    settings = {"processing_class": tokens, "max_length": 32, "objective": objective}
    # More steps than the text has rows for: the stream starts again.
    trainer = teaching(
        tmp_path, reader(tokens), data, max_steps=30, per_device_train_batch_size=8, **settings
    )
    trainer.train()
    assert trainer.state.global_step == 30
    seen = [row.tolist() for x_0, _, _ in objective.seen for row in x_0]
    assert len(seen) > len(whole) and seen[: len(whole)] == whole["input_ids"][:]


def test_text_that_does_not_fill_a_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not fill one row of max_length=64 tokens"):
        prepared([{"text": "short"}], tokenizer(), 64)


def test_tokenizer_pads_where_the_model_has_no_pad_token():
    tokens = tokenizer()
    tokens.pad_token = "[END]"
    collator = TokenCollator.suited_to(reader(tokens).config, tokens)
    assert collator.pad_token_id == tokens.eos_token_id
    with_zero = TokenCollator.suited_to(reader(tokens, pad_token_id=0).config, tokens)
    assert with_zero.pad_token_id == 0


def test_rows_of_unequal_length_are_padded_and_masked():
    collator = TokenCollator(pad_token_id=1)
    batch = collator([{"input_ids": [0, 1, 0], "label": 4}, {"input_ids": [1], "label": 2}])
    assert batch["input_ids"].tolist() == [[0, 1, 0], [1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["class_labels"].tolist() == [4, 2]
    assert "attention_mask" not in collator([{"input_ids": [0, 1]}, {"input_ids": [1, 1]}])
    own = collator([{"input_ids": [0, 1], "attention_mask": [1, 0]}])
    assert own["attention_mask"].tolist() == [[1, 0]]


@pytest.mark.parametrize("process", ["absorbing", "uniform"])
@pytest.mark.parametrize(
    "objective",
    [
        "nelbo",
        "ecd",
        {"type": "ecd", "coupling": "forward"},
        {"type": "ecd", "coupling": {"type": "teacher", "substeps": 2}},
    ],
    ids=str,
)
def test_values_of_padded_tokens_change_neither_loss_nor_gradient(tmp_path, objective, process):
    diffusion = Diffusion(Uniform(3)) if process == "uniform" else None
    build = teaching if objective == "nelbo" else distilling
    trainer = build(
        tmp_path,
        **{"objective": objective, "diffusion": diffusion, "model": tiny(**SEQUENCE)}
        | ({} if objective == "nelbo" else {"teacher": tiny(1, **SEQUENCE)}),
    )
    batch = TokenCollator(pad_token_id=0)(
        [
            {"input_ids": row["input_ids"][:n]}
            for row, n in zip(rows(4), (40, 64, 8, 1), strict=True)
        ]
    )
    results = []
    for fill in (0, 1, MASK):
        ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, fill)
        trainer._micro = 0
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch | {"input_ids": ids})
        loss.backward()
        gradient = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        results.append((float(loss.detach()), {n: g.clone() for n, g in gradient.items()}))
    assert results[0][0] > 0
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for name, value in gradient.items():
            torch.testing.assert_close(value, results[0][1][name], atol=1e-6, rtol=1e-4)


def test_padded_rows_train(tmp_path):
    data = [{"input_ids": row["input_ids"][: 64 - 3 * i]} for i, row in enumerate(rows(16))]
    model = tiny(pad_token_id=0, **SEQUENCE)
    trainer = teaching(tmp_path, model, data, logging_steps=1, eval_dataset=data)
    trainer.train()
    assert all(0 < r["loss"] < 3 for r in trainer.state.log_history if "loss" in r)
    assert 0 < trainer.evaluate()["eval_loss"] < 3
