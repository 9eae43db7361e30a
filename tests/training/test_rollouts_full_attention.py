"""Rollouts of models with full attention: pieces from left to right, prompts of mixed lengths."""

import pytest
from block_runs import BOS, converted, distilling, prompts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


def tokenizer():
    names = ["<s>", "</s>", "<pad>", *"01234567", "<mask>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")


def record(trainer, rows):
    """The step that the objective is given."""
    trainer.model.train()
    return trainer.training_record(trainer.model, trainer.data_collator(rows), 0, 0)


@pytest.mark.parametrize("block_size", [64, 8], ids=["full attention", "blocks"])
def test_a_piece_is_decoded_after_those_before_it(block_size, tmp_path):
    """A model of full attention decodes what was asked for, not all of its window."""
    trainer = distilling(
        tmp_path,
        model=None,
        teacher=converted(block_size),
        objective="dparallel",
        rollouts={"block_size": 4},
    )
    path = record(trainer, prompts(8)).trajectory
    assert path.rounds.shape[1] == (11 if block_size == 64 else 16)
    first, second = path.rounds[:, -8:-4], path.rounds[:, -4:]
    later = (second >= 0).all(1)
    assert later.any() and bool((first[later].amax(1) < second[later].amin(1)).all())
    assert path.block_size == (11 if block_size == 64 else 8)


def test_prompts_of_mixed_lengths_train_blocks_that_begin_with_the_prompt(tmp_path):
    """The decoder of full attention ends all rows at one column; blocks of 4 do not divide 15."""
    trainer = distilling(
        tmp_path,
        model=None,
        teacher=converted(64),
        objective={"type": "cdlm", "block_size": 4},
        rollouts={"block_size": 4, "tokens": 9},
        processing_class=tokenizer(),
        data=[*prompts(8), *prompts(8, 5)],
    )
    step = record(trainer, [*prompts(4), *prompts(4, 5)])
    assert step.x_0.shape[1] % 4 == 0 and bool((step.x_0[:, 0] == BOS).all())
    assert bool(step.attend[:, 1:].logical_not().logical_or(step.attend[:, :-1]).all())
    drawn = step.trajectory.drawn
    assert (step.attend.sum(1) - drawn.sum(1)).tolist() == [3] * 4 + [5] * 4
    assert not bool(drawn[:4, :3].any()) and not bool(drawn[4:, :5].any())
    trainer.train()
