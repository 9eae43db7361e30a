"""What data may hold: tokens of the vocabulary, and none that stands for noise."""

from __future__ import annotations

import pytest
from batch_runs import MASK, ROWS, K, network, trainer_of
from datasets import Dataset
from training_runs import QUIET

from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


def data_of(*tokens):
    return [{"input_ids": [1, 2, 3, *tokens]}] * 4


@pytest.mark.parametrize(
    ("token", "message"),
    [(MASK, "hold token 11 .at position 3 of a row., a mask or noise token of the process"),
     (K, "hold token 12 .* the vocabulary has tokens from 0 to 11"),
     (-1, "hold token -1 .* the vocabulary has tokens")],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_masks_and_unknown_tokens_in_the_data_are_refused(tmp_path, token, message, streamed):
    data = Dataset.from_list(data_of(token))
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)

    def train():
        given = data.to_iterable_dataset() if streamed else data
        DiscreteDiffusionTrainer(network(0), args, train_dataset=given).train()

    with pytest.raises(ValueError, match=message) as refusal:
        train()
    assert "\n" not in str(refusal.value)


def test_lit_pixels_are_no_masks(tmp_path):
    """Binary images over a vocabulary of two, whose second token is the mask."""
    model = network(0, vocab_size=2, mask_token_id=1, pad_token_id=0)
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)
    with pytest.raises(ValueError, match="hold token 1 .* data never hold"):
        DiscreteDiffusionTrainer(model, args, train_dataset=[{"input_ids": [0, 1, 0]}] * 4)


def test_a_mask_that_is_padding_is_no_token_of_the_data(tmp_path):
    rows = [{"input_ids": [1, 2, MASK], "attention_mask": [1, 1, 0]}] * 4
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)
    DiscreteDiffusionTrainer(network(0), args, train_dataset=rows).train()


@pytest.mark.parametrize(
    ("label", "message"),
    [(3, "hold the class 3, and the model knows classes from 0 to 2"),
     (4, "hold the class 4, and the model knows"),
     (-2, "hold the class -2, and the model knows"),
     (0.5, "class_labels must hold whole numbers in every row, got 0.5"),
     (None, "class_labels must hold whole numbers in every row, got None"),
     ("one", "class_labels must hold whole numbers in every row, got 'one'"),
     ([1, 2], "class_labels must be one class for each row")],
)  # fmt: skip
def test_a_class_that_the_model_does_not_know_ends_in_its_embedding(tmp_path, label, message):
    rows = [{"input_ids": [1, 2, 3], "class_labels": label}] * 4
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)
    with pytest.raises(ValueError, match=message) as refusal:
        DiscreteDiffusionTrainer(network(0, num_classes=3), args, train_dataset=rows).train()
    assert "\n" not in str(refusal.value)


def test_rows_of_no_class_are_refused(tmp_path):
    rows = [{"input_ids": [1, 2, 3], "class_labels": label} for label in (-1, 0, 1, 2)]
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)
    DiscreteDiffusionTrainer(network(0, num_classes=3), args, train_dataset=rows).train()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "The rows hold no tokens"),
     ([1.5, 2.0, 3.0], r"input_ids must hold whole numbers in every row, got \[1.5, 2.0, 3.0\]"),
     (["a", "b"], "input_ids must hold whole numbers")],
)  # fmt: skip
def test_rows_that_are_no_tokens_are_rounded_or_end_in_the_network(tmp_path, tokens, message):
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1)
    with pytest.raises(ValueError, match=message):
        rows = [{"input_ids": tokens}] * 4
        DiscreteDiffusionTrainer(network(0), args, train_dataset=rows).train()


@pytest.mark.parametrize("stream", [False, True])
def test_rows_beyond_max_length_are_trained_on_all_the_same(tmp_path, stream):
    data = Dataset.from_list(ROWS)
    data = data.to_iterable_dataset() if stream else data
    args = DiscreteDiffusionConfig(str(tmp_path), **QUIET, max_steps=1, max_length=8)
    with pytest.raises(ValueError, match="a row of 12 tokens, and max_length=8: .* are not cut"):
        DiscreteDiffusionTrainer(network(0), args, train_dataset=data).train()
    longest = max(len(row["input_ids"]) for row in ROWS)
    trainer_of(tmp_path, "nelbo", max_length=longest).train()
    trainer_of(tmp_path, "bd3lm", max_length=longest + 1).train()


def test_samples_are_as_long_as_the_model_or_max_length_says(tmp_path):
    for length, settings in ((64, {}), (20, {"max_length": 20})):
        trainer = trainer_of(tmp_path, "nelbo", sample_steps=1, **settings)
        trainer.evaluate()
        assert trainer.sample(2).shape == (2, length)
