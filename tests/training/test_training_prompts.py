"""Prompts of rollouts: by labels, as text, in groups; causal teachers in half precision."""

from __future__ import annotations

import pytest
import torch
from batch_runs import MASK, PAD, ROWS, K, blocks, language_model, reward
from rollout_settings import decoding
from tokenizers import Tokenizer, models, pre_tokenizers
from training_runs import QUIET
from transformers import PreTrainedTokenizerFast

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer


def run(folder, objective="opdlm", data=ROWS, *, teacher=None, model=None, **settings):
    given = {
        "max_steps": 1,
        "ema_decay": 0.0,
    } | settings
    more = {name: given.pop(name) for name in ("processing_class",) if name in given}
    return DiscreteDistillationTrainer(
        blocks(0) if model is None else model,
        language_model(1) if teacher is None else teacher,
        decoding(objective, tokens=4),
        DiscreteDistillationConfig(str(folder), **QUIET | given),
        train_dataset=data,
        reward_function=reward,
        **more,
    )


def test_a_prompt_ends_where_the_labels_begin(tmp_path):
    trainer = run(tmp_path)
    batch = trainer.data_collator(ROWS)
    step = trainer.training_record(trainer.model, batch, 0, 0)
    for row, tokens, real, drawn in zip(
        ROWS, step.x_0, step.attend, step.trajectory.drawn, strict=True
    ):
        given = row["labels"].count(-100)
        assert tokens[real & ~drawn].tolist() == row["input_ids"][:given]
        # The rows start at the first column, whatever the other prompts are.
        assert real[0] and int(drawn.long().argmax()) == given
    shorter = run(tmp_path / "b", prompt_length=2)
    step = shorter.training_record(shorter.model, batch, 0, 0)
    real = torch.ones_like(step.x_0, dtype=torch.bool) if step.attend is None else step.attend
    given = (real & ~step.trajectory.drawn).sum(1)
    assert given.tolist() == [min(row["labels"].count(-100), 2) for row in ROWS]


def test_prompts_given_as_text_are_one_row_each(tmp_path):
    words = ["</s>", "<unk>", *"abcdefghij"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    lm = language_model()
    student, tokens = to_block_diffusion(lm, tokens)
    texts = ["a b c", "d e", "", "f"]
    trainer = run(
        tmp_path,
        data=[{"text": text} for text in texts],
        model=student,
        teacher=language_model(1),
        processing_class=tokens,
    )
    expected = [[words.index(word) for word in text.split()] for text in texts if text]
    assert trainer.train_dataset["input_ids"][:] == expected
    trainer.train()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_teacher_without_the_mask_gives_it_no_probability(tmp_path, dtype):
    """-1e6 is no number of half precision, and its least one no probability of 0."""
    teacher = language_model(1)
    teacher.resize_token_embeddings(K - 1)
    assert K - 1 == MASK
    trainer = run(tmp_path, teacher=teacher.to(dtype), per_device_train_batch_size=2)
    logits = trainer.teacher_model(torch.tensor([[1, 2, 3, PAD]]), causal=True).logits
    assert logits.shape[-1] == K and logits.isfinite().all()
    assert (logits.float().softmax(-1)[..., MASK] == 0).all()
    trainer.train()


def test_samples_of_an_objective_on_data_start_with_the_first_token(tmp_path):
    """Whole rows are no prompts where all of them is trained on; those with context have theirs."""
    settings = {"teacher": blocks(1), "max_steps": 1, "eval_strategy": "no", "max_length": 12}
    plain = [{"input_ids": row["input_ids"]} for row in ROWS]
    trainer = run(tmp_path / "a", {"type": "d2f", "block_size": 4}, plain, **settings)
    trainer.eval_dataset = {"one": trainer.train_dataset, "other": trainer.train_dataset}
    samples = trainer.sample(3)
    assert samples.shape[1] == 12
    assert samples[:, 0].tolist() == [row["input_ids"][0] for row in ROWS[:3]]
    trainer = run(tmp_path / "b", {"type": "d2f", "block_size": 4}, ROWS, **settings)
    for row, sample in zip(ROWS, trainer.sample(3), strict=False):
        given = row["labels"].count(-100)
        assert sample[:given].tolist() == row["input_ids"][:given]
