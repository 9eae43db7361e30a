"""Special tokens of masked language models: given, never noised, never drawn."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from cli_runs import run, words
from masked_lm_families import FAMILIES, LETTERS, masked_lm
from training_runs import distilling, tiny
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, BertConfig

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.hub import load_pipeline
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.models.held import Held, blank_canvas, enter_held
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Canvas
from hf_ddistill.schedules import LogLinear


def letters(tokenizer):
    names = (name for letter in LETTERS for name in (letter, letter.upper()))
    return [i for i in tokenizer.convert_tokens_to_ids(list(names)) if i != tokenizer.unk_token_id]


def data(tokenizer, *lengths):
    """Rows as the tokenizer puts them: begun and ended, of these lengths without that."""
    known = letters(tokenizer)
    held = Held.of_tokenizer(tokenizer, 100)
    return [
        {"input_ids": [*held.begin, *(known[(i * i + n) % 9] for i in range(n)), *held.end]}
        for n in lengths
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_special_token_has_no_probability_at_a_mask(family, tmp_path):
    model, tokenizer = masked_lm(family, tmp_path)
    mask, special = tokenizer.mask_token_id, tokenizer.all_special_ids
    x_t = torch.tensor([row["input_ids"] for row in data(tokenizer, 5, 5)])
    x_t[:, [2, 4]] = mask
    found = as_denoiser(model, tokenizer=tokenizer)(x_t, 0.5).log_conditional.exp()
    with torch.no_grad():
        logits = model(input_ids=x_t).logits
    allowed = [k for k in range(logits.shape[-1]) if k not in special]
    expected = torch.zeros_like(logits)
    expected[..., allowed] = logits[..., allowed].softmax(-1)
    expected[:, [0, 1, 3, 5, 6]] = torch.nn.functional.one_hot(x_t, logits.shape[-1]).float()[
        :, [0, 1, 3, 5, 6]
    ]
    assert len(allowed) < logits.shape[-1] - 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_distilled_from_the_command_line_a_student_holds_what_its_teacher_held(family, tmp_path):
    model, tokenizer = masked_lm(family, tmp_path)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    model.save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, data(tokenizer, 6, 4, 6, 5))))
    how = ["--steps", 1, "--batch-size", 4, "--student-steps", 2, "--cpu"]
    named = ["--teacher", teacher, "--data", file, "--output", student, "--objective", "ecd"]
    assert run("distill", *named, *how) == 0
    pipe = load_pipeline(str(student))
    pipe.set_progress_bar_config(disable=True)
    held = Held.of(pipe.model.config)
    assert held == Held.of_tokenizer(tokenizer, model.config.vocab_size) and held.begin and held.end
    out = pipe(batch_size=16, length=8, generator=torch.Generator().manual_seed(0))
    inner = out.sequences[:, 1:-1]
    assert (out.sequences[:, 0] == held.begin[0]).all()
    assert (out.sequences[:, -1] == held.end[0]).all()
    assert out.num_network_calls == 2 and len(inner.unique()) > 5
    assert not torch.isin(inner, torch.tensor(tokenizer.all_special_ids)).any()
    assert not any(name in text for text in out.texts for name in tokenizer.all_special_tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_special_tokens_nor_padding_have_a_part_in_a_loss(family, tmp_path):
    """The loss of rows of unequal length in one batch is that of each by itself, at the tokens that
    are neither."""
    model, tokenizer = masked_lm(family, tmp_path)
    rows = data(tokenizer, 9, 4, 6)

    def trainer(batch_size):
        held_out = {"eval_dataset": rows, "per_device_eval_batch_size": batch_size}
        return distilling(
            tmp_path / "run", model, rows, processing_class=tokenizer, student_steps=2, **held_out
        )

    together, alone = trainer(3), trainer(1)
    batch = together.data_collator(rows)
    trained = batch["labels"] != -100
    assert trained.sum(1).tolist() == [9, 4, 6] and not trained[:, 0].any()
    for step in range(20):
        record = together.training_record(together.model, batch, step)
        x_t = record.noised(torch.full((3,), 0.9, dtype=torch.float64))
        assert torch.equal(x_t[~trained], batch["input_ids"][~trained])
    with torch.no_grad():  # away from the teacher, where the loss is zero
        for one in (together, alone):
            generator = torch.Generator().manual_seed(1)
            for parameter in one.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    one, other = (each.evaluate()["eval_loss"] for each in (together, alone))
    assert one > 1e-3 and one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_law_and_is_not_drawn(family, tmp_path):
    """In each of its states a padded row is seen as it is without padding: so is then every step of
    a sampler."""
    model, tokenizer = masked_lm(family, tmp_path)
    rows = data(tokenizer, 4, 9)
    trainer = distilling(tmp_path / "run", model, rows, processing_class=tokenizer)
    batch = trainer.data_collator(rows)
    ids, real = batch["input_ids"], batch["attention_mask"]
    assert (ids[0, 6:] == tokenizer.pad_token_id).all() and real.sum(1).tolist() == [6, 11]
    masked = torch.tensor(list(itertools.product((False, True), repeat=4)))
    x_t = ids[:1].repeat(16, 1)
    x_t[:, 1:5] = x_t[:, 1:5].masked_fill(masked, tokenizer.mask_token_id)
    denoiser = as_denoiser(model)
    padded = denoiser(x_t, 0.5, attention_mask=real[:1].expand(16, -1)).log_conditional[:, :6]
    torch.testing.assert_close(padded, denoiser(x_t[:, :6], 0.5).log_conditional)
    drawn = torch.as_tensor(trainer.predict(rows).predictions)
    assert (drawn[0, 6:] == -100).all() and torch.equal(drawn[0, [0, 5]], ids[0, [0, 5]])
    assert not torch.isin(drawn[0, 1:5], torch.tensor(tokenizer.all_special_ids)).any()


def test_samples_begin_and_end_as_the_tokenizer_puts_it_where_the_caller_says_nothing(tmp_path):
    model, tokenizer = masked_lm("bert", tmp_path)
    pipe = DiscreteDiffusionPipeline.from_model(model, tokenizer=tokenizer)
    pipe.set_progress_bar_config(disable=True)

    def drawn(*given, **settings):
        return pipe(*given, length=8, num_inference_steps=2, **settings).sequences[0].tolist()

    a, c = tokenizer.convert_tokens_to_ids(["a", "##c"])
    assert drawn()[0] == 2 and drawn()[-1] == 3
    assert drawn("ac")[:3] == [2, a, c] and drawn("ac")[-1] == 3
    # What is laid out stays: a beginning of one's own, masks and all, and a last token.
    asked = drawn(input_ids=torch.tensor([4, a, c]))
    assert asked[1:3] == [a, c] and asked[0] not in (0, 1, 2, 3, 4) and asked[-1] == 3
    asked = drawn(input_ids=torch.tensor([2, 4, 4, 4, 4, 4, 4, a]))
    assert asked[0] == 2 and asked[-1] == a
    with pytest.raises(ValueError, match="nothing to generate"):
        pipe(length=2)


def test_tokens_around_a_sample_leave_what_is_laid_out():
    held = Held((0, 1, 2, 3), (0, 1), (2, 3))
    canvas = Canvas(torch.full((3, 6), 9), torch.ones(3, 6, dtype=torch.bool))
    found = held.around(canvas, [0, 3, 5])
    assert found.tokens.tolist() == [[0, 1, 9, 9, 2, 3], [9, 9, 9, 9, 2, 3], [9, 9, 9, 9, 9, 3]]
    open_ = [[0, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert found.infill.long().tolist() == open_
    assert Held((0,), (0,)).around(Canvas.empty((1, 1))).infill.tolist() == [[False]]


def test_a_student_of_another_kind_takes_on_what_its_teacher_holds(tmp_path):
    model, tokenizer = masked_lm("bert", tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = model.config.vocab_size
    student = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=size, mask_token_id=4, **sizes))
    trainer = distilling(
        tmp_path / "run", model, data(tokenizer, 6, 6), model=student, processing_class=tokenizer
    )
    trainer.save_model(tmp_path / "student")
    saved = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    assert Held.of(saved.config) == Held((0, 1, 2, 3), (2,), (3,))
    samples = trainer.sample(8)
    assert (samples[:, 0] == 2).all() and (samples[:, -1] == 3).all()
    assert not torch.isin(samples[:, 1:-1], torch.arange(5)).any()


def test_one_that_knows_of_diffusion_draws_its_special_tokens(tmp_path):
    model, tokenizer = masked_lm("bert", tmp_path)
    own = tiny(vocab_size=model.config.vocab_size, mask_token_id=4)
    as_denoiser(own, tokenizer=tokenizer)
    assert Held.of(own.config) is None
    as_denoiser(model, Diffusion(Absorbing(model.config.vocab_size, 4), LogLinear()), None)
    as_denoiser(model, tokenizer=tokenizer)  # its entry says what it is by now
    assert Held.of(model.config) is None
    assert blank_canvas(model.config, (2, 5)).infill.all()


def test_a_tokenizer_that_puts_nothing_around_a_text():
    plain = words(("[PAD]", "[UNK]", "[MASK]", "[EOS]"))
    config = BertConfig(vocab_size=20)
    enter_held(config, plain)
    assert Held.of(config) == Held((0, 1, 3))


def test_what_is_held_is_saved_and_a_wrong_entry_is_refused(tmp_path):
    model, tokenizer = masked_lm("roberta", tmp_path)
    as_denoiser(model, tokenizer=tokenizer)
    model.save_pretrained(tmp_path / "model")
    assert Held.of(AutoConfig.from_pretrained(tmp_path / "model")) == Held.of(model.config)
    tokenizer.save_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").mask_token_id == 4
    for wrong, said in (
        ([0, 1], "must be a mapping"),
        ({"begin": [0]}, "must be a mapping"),
        ({"tokens": [0], "ends": [0]}, "must be a mapping"),
        ({"tokens": [0, "a"]}, "tokens must be a list of integers"),
        ({"tokens": [0], "end": [-1]}, "end must be a list of integers"),
        ({"tokens": [0], "end": [2]}, r"\[2\] stand around a sample"),
    ):
        model.config.held_tokens = wrong
        with pytest.raises(ValueError, match=said):
            as_denoiser(model)
