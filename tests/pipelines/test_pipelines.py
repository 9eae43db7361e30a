"""The pipeline samples what the model and the scheduler say, whatever it is asked along with it.

Models are tiny and random, or trained for a second; about 10 s.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from pipeline_cases import letters, made, piped, seeded
from transformers import BertConfig, BertForMaskedLM

from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing, Hybrid, Ordinal, Uniform
from hf_ddistill.samplers import Ancestral, Canvas
from hf_ddistill.schedulers import (
    AnalyticScheduler,
    AncestralScheduler,
    CTMCEulerScheduler,
    TauLeapingScheduler,
)
from hf_ddistill.schedules import Cosine

PROCESSES = [Absorbing(6), Uniform(6), Hybrid(6), Ordinal(6)]
processes = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.id)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@processes
def test_the_pipeline_draws_what_the_core_draws(process):
    model = made(process, time_conditioning=True)
    out = piped(model)(batch_size=5, num_inference_steps=4, generator=seeded())
    expected = Ancestral().sample(as_denoiser(model), Canvas.empty((5, 8)), 4, seeded())
    assert torch.equal(out.sequences, expected)
    assert out.num_network_calls == 4 and out.texts is None and out.images is None
    assert not set(process.noise_tokens) & set(out.sequences.flatten().tolist())


@processes
def test_a_sample_does_not_depend_on_its_batch(process):
    pipe = piped(made(process, noise_dim=3), CTMCEulerScheduler, num_inference_steps=3)
    together = pipe(batch_size=4, generator=[seeded(i) for i in range(4)]).sequences
    assert len({tuple(row) for row in together.tolist()}) > 1
    for row in range(4):
        assert torch.equal(pipe(generator=[seeded(row)]).sequences[0], together[row])


@processes
def test_infilling_keeps_what_is_given_and_the_model_always_sees_it(process):
    model = made(process)
    given = torch.tensor([[1, 2, 3, 4, 0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]])
    infill = torch.tensor([False, True, False, True, True, False, True, True])
    seen = []
    model.register_forward_pre_hook(
        lambda _, arguments, keywords: seen.append(keywords["input_ids"]), with_kwargs=True
    )
    pipe = piped(model, TauLeapingScheduler)
    out = pipe(input_ids=given, infill=infill, num_inference_steps=5, generator=seeded())
    assert 0 < len(seen) <= 5 and (len(seen) == 5 or process.id == "absorbing")
    for x in seen:  # under masks only the rows of which a call draws something
        assert all(row in given[:, ~infill].tolist() for row in x[:, ~infill].tolist())
    assert torch.equal(out.sequences[:, ~infill], given[:, ~infill])
    assert not torch.equal(out.sequences, given)


def test_a_prompt_is_fixed_and_its_masks_are_filled():
    pipe = piped(made(), tokenizer=letters(), num_inference_steps=4)
    out = pipe(["ab", "d_cab"], generator=seeded())
    assert out.sequences.shape == (2, 8)
    assert out.sequences[0, :2].tolist() == [0, 1]
    assert out.sequences[1, [0, 2, 3, 4]].tolist() == [3, 2, 0, 1]
    assert out.sequences.max() < 5, "a mask is left"
    assert out.texts == pipe.tokenizer.batch_decode(out.sequences, skip_special_tokens=True)
    assert out.texts[0].startswith("ab")
    assert pipe("a", batch_size=3).sequences.shape == (3, 8)
    assert pipe("a", length=5).sequences.shape == (1, 5)


def test_a_trained_model_finishes_the_words_that_it_learned():
    tokenizer, model = letters(), made(max_position_embeddings=4)
    words = torch.tensor(tokenizer(["abcd", "badc", "ccaa", "dddd"])["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        x = words.repeat(8, 1)
        masked = torch.rand(x.shape) < torch.rand(len(x), 1)
        labels = x.masked_fill(~masked, -100)
        labels[0, 0] = x[0, 0]  # never without a label
        model(x.masked_fill(masked, 5), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pipe = piped(model, tokenizer=tokenizer, temperature=0.0, num_inference_steps=8)
    assert pipe(["a", "ba", "c", "_d_d"]).texts == ["abcd", "badc", "ccaa", "dddd"]
    generate = transformers.pipeline("discrete-diffusion", model=model, tokenizer=tokenizer)
    found = generate(["a", "d"], temperature=0.0, num_inference_steps=4)
    assert [row["generated_text"] for (row,) in found] == ["abcd", "dddd"]
    assert found[0][0]["generated_token_ids"] == [0, 1, 2, 3]


def test_guidance_changes_samples_and_scale_1_is_plain_with_one_call_per_step():
    model = made(num_classes=3)
    pipe = piped(model, num_inference_steps=3)
    labels = [0, 2, -1]
    plain = pipe(class_labels=labels, generator=seeded())
    assert plain.num_network_calls == 3
    zero = pipe(class_labels=labels, guidance_scale=1.0, generator=seeded())
    assert torch.equal(zero.sequences, plain.sequences) and zero.num_network_calls == 3
    guided = pipe(class_labels=labels, guidance_scale=5.0, generator=seeded())
    assert not torch.equal(guided.sequences[:2], plain.sequences[:2])
    assert torch.equal(guided.sequences[2], plain.sequences[2]), "no class, nothing to guide"
    assert guided.num_network_calls == 6
    one = pipe(class_labels=1, batch_size=40, generator=seeded()).sequences
    other = pipe(class_labels=2, batch_size=40, generator=seeded()).sequences
    assert not torch.equal(one, other), "the label does not reach the model"


def test_noise_is_drawn_anew_at_each_step_from_the_generator():
    model = made(noise_dim=3)
    seen = []
    model.register_forward_pre_hook(
        lambda _, arguments, keywords: seen.append(keywords["noise"]), with_kwargs=True
    )
    pipe = piped(model, num_inference_steps=2)
    pipe(batch_size=50, generator=seeded())
    assert seen[0].shape == (50, 8, 3) and not torch.equal(seen[0], seen[1])
    assert abs(float(seen[0].mean())) < 0.1 and abs(float(seen[0].std()) - 1) < 0.1
    pipe(batch_size=50, generator=seeded())
    assert torch.equal(seen[2], seen[0])


def test_images_have_the_grey_levels_of_their_tokens():
    model = made(Absorbing(4, mask_token_id=1), token_shape=[2, 3])
    pipe = piped(model, num_inference_steps=4)
    out = pipe(batch_size=2, output_type="image", generator=seeded())
    levels = torch.tensor([0, -1, 1, 2])[out.sequences].reshape(2, 2, 3)
    for image, level in zip(out.images, levels, strict=True):
        assert image.mode == "L" and image.size == (3, 2)
        assert np.array_equal(np.asarray(image), (level * 127.5).round().numpy())


def test_the_tuple_holds_what_the_output_holds():
    pipe = piped(made(), tokenizer=letters(), num_inference_steps=2)
    sequences, texts, calls = pipe(generator=seeded(), return_dict=False)
    output = pipe(generator=seeded())
    assert torch.equal(sequences, output.sequences)
    assert (texts, calls) == (output.texts, 2)
    assert pipe(output_type="tokens").texts is None


def test_callbacks_are_given_what_they_asked_for_and_may_change_the_sample():
    pipe, calls = piped(made()), []

    def callback(pipeline, step, timestep, tensors):
        calls.append((pipeline is pipe, step, float(timestep), sorted(tensors)))
        return {"sequences": torch.full_like(tensors["sequences"], 2)}

    names = ["sequences", "pred_original_sample"]
    out = pipe(
        num_inference_steps=2,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    )
    assert calls == [(True, 0, 1.0, sorted(names)), (True, 1, 0.5, sorted(names))]
    assert out.sequences.eq(2).all() and pipe.num_timesteps == 2
    with pytest.raises(ValueError, match="must be among .*'sequences'"):
        pipe(callback_on_step_end_tensor_inputs=["latents"])


def test_dropout_is_off_while_sampling_and_back_on_after_it():
    model = made(dropout=0.5)
    pipe = piped(model, num_inference_steps=4)
    expected = pipe(generator=seeded()).sequences
    model.train()
    assert torch.equal(pipe(generator=seeded()).sequences, expected)
    assert model.training


def test_a_scheduler_can_be_swapped_but_not_for_one_of_another_process():
    pipe = piped(made(time_conditioning=True), num_inference_steps=3)
    for scheduler_class in (AnalyticScheduler, CTMCEulerScheduler, TauLeapingScheduler):
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config)
        assert pipe.config["scheduler"][1] == scheduler_class.__name__
        assert pipe(generator=seeded()).num_network_calls == 3
    pipe.scheduler = AncestralScheduler(Uniform(6))
    with pytest.raises(ValueError, match="'absorbing'.*'uniform'"):
        pipe()
    pipe.scheduler = AncestralScheduler(Absorbing(6), Cosine())
    with pytest.raises(ValueError, match="looks at the time.*'log_linear'.*'cosine'"):
        pipe()
    pipe.register_modules(model=made())  # which does not look at it
    assert pipe().sequences.shape == (1, 8)


def test_a_student_brings_its_own_number_of_steps():
    model = made()
    model.config.discrete_diffusion["num_inference_steps"] = 2
    assert piped(model)().num_network_calls == 2
    of_five = piped(model, num_inference_steps=5)
    assert of_five.scheduler.config.num_inference_steps == 5
    assert 2 < of_five(batch_size=20).num_network_calls <= 5


def test_any_masked_language_model_can_be_sampled():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=6, max_position_embeddings=7, intermediate_size=8, **sizes)
    model = BertForMaskedLM(config)
    with pytest.raises(ValueError, match="mask_token_id"):
        piped(model)
    model.config.mask_token_id = 5
    out = piped(model, tokenizer=letters())("ab_", num_inference_steps=3)
    assert out.sequences.shape == (1, 7) and out.texts[0].startswith("ab")


REFUSED = {
    "both": ({"prompt": "a", "input_ids": torch.tensor([1])}, "not both"),
    "no tokenizer": ({"prompt": "a"}, "needs a tokenizer"),
    "prompt type": ({"prompt": [1]}, "`prompt` must be a string"),
    "text": ({"output_type": "text"}, "needs a tokenizer, and there is none"),
    "type": ({"output_type": "pil"}, "text, tokens or image"),
    "image": ({"output_type": "image"}, "token_shape of two axes"),
    "steps": ({"num_inference_steps": 0}, "must be an integer > 0"),
    "vocabulary": ({"input_ids": torch.tensor([7])}, r"\[0, 6\)"),
    "ids": ({"input_ids": torch.ones(2)}, "int64"),
    "too long": ({"input_ids": torch.ones(9).long()}, "9 tokens, more than length=8"),
    "window": ({"length": 9}, r"\[1, 8\]"),
    "length": ({"length": 0}, r"\[1, 8\]"),
    "all given": ({"input_ids": torch.ones(8).long()}, "nothing to generate"),
    "infill alone": ({"infill": torch.tensor([True])}, "needs the `input_ids`"),
    "infill": (
        {"input_ids": torch.ones(4).long(), "infill": torch.ones(3) > 0},
        "the shape of `input_ids`",
    ),
    "fixed noise": (
        {"input_ids": torch.tensor([5]), "infill": torch.tensor([False])},
        "Token 5 is noise",
    ),
    "batch": ({"batch_size": 0}, "must each be 1 or agree"),
    "rows": ({"batch_size": 3, "input_ids": torch.ones(2, 2).long()}, "batch_size: 3"),
    "generators": ({"generator": [seeded(), seeded()]}, "2 generators for 1 samples"),
    "labels": ({"class_labels": 1}, "num_classes=0"),
    "half a label": ({"class_labels": [1.5]}, r"an integer or some, got \[1\.5\]"),
    "named label": ({"class_labels": "a"}, "an integer or some, got 'a'"),
    "list of ids": ({"input_ids": [[1, 2]]}, "must be a tensor, got list"),
    "half a length": ({"length": 2.5}, "must be an integer, got 2.5"),
    "guidance": ({"guidance_scale": 2.0}, "needs `class_labels`"),
    "guidance in words": ({"guidance_scale": "x"}, "must be a number of at least 1, got 'x'"),
}


def test_the_class_that_stands_for_none_is_taken_by_its_number():
    pipe = piped(made(num_classes=2))
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\), or be -1 for none, got \[2\]"):
        pipe(class_labels=2)
    none = pipe(class_labels=-1, generator=seeded()).sequences
    assert torch.equal(none, pipe(generator=seeded()).sequences)


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused_in_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        piped(made())(**arguments)
