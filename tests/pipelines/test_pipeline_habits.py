"""What users of diffusers do with any pipeline, done with ours.

The essentials of the checks that diffusers runs over its own pipelines (they do not come with it).
"""

from __future__ import annotations

import pytest
import torch
from diffusers.callbacks import PipelineCallback
from pipeline_cases import letters, made, piped, seeded
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CamembertConfig,
    CamembertForMaskedLM,
    EsmConfig,
    EsmForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from hf_ddistill.models import window
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.pipelines.texts import texts_of

SIZES = {"vocab_size": 24, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 8, "max_position_embeddings": 18, "pad_token_id": 1}


def test_the_parts_of_a_pipeline_make_another_one():
    pipe = piped(made(), tokenizer=letters())
    assert set(pipe.components) == {"model", "scheduler", "tokenizer", "drafter"}
    other = DiscreteDiffusionPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    assert other("a", generator=seeded()).texts == pipe("a", generator=seeded()).texts


def test_to_changes_the_dtype_of_the_model_and_it_still_samples():
    pipe = piped(made()).to(torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert pipe(num_inference_steps=2, generator=seeded()).sequences.max() < 5
    pipe.to("cpu", torch.float32)
    assert pipe.model.dtype == torch.float32 and pipe.device.type == "cpu"


def test_the_progress_bar_counts_the_steps_and_can_be_turned_off(capsys):
    pipe = DiscreteDiffusionPipeline.from_model(made())
    pipe(num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(num_inference_steps=3)
    assert capsys.readouterr().err == ""


def test_hooks_of_offloading_are_freed_after_a_call():
    pipe, freed = piped(made()), []
    pipe.maybe_free_model_hooks = lambda: freed.append(True)
    pipe(num_inference_steps=2)
    assert freed == [True]


def test_a_batch_with_a_generator_for_each_row_is_its_rows_one_by_one():
    pipe = piped(made(), tokenizer=letters(), num_inference_steps=3)
    prompts = ["a", "bcd", "ab"]
    together = pipe(prompts, generator=[seeded(i) for i in range(3)]).texts
    assert together == [pipe(p, generator=[seeded(i)]).texts[0] for i, p in enumerate(prompts)]


class Changing(PipelineCallback):
    """Every tensor that the pipeline offers, seen; the sample replaced behind the last step."""

    tensor_inputs = DiscreteDiffusionPipeline._callback_tensor_inputs

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        assert set(callback_kwargs) == set(self.tensor_inputs)
        if step_index == pipeline.num_timesteps - 1:
            callback_kwargs["sequences"] = torch.zeros_like(callback_kwargs["sequences"])
        return callback_kwargs


def test_a_callback_may_ask_for_all_tensors_and_return_them():
    out = piped(made())(num_inference_steps=3, callback_on_step_end=Changing())
    assert out.sequences.eq(0).all()


def test_a_callback_that_returns_nothing_changes_nothing():
    pipe = piped(made(), num_inference_steps=3)
    silent = pipe(generator=seeded(), callback_on_step_end=lambda *_: None).sequences
    assert torch.equal(silent, pipe(generator=seeded()).sequences)


def test_guidance_can_be_read_and_turned_off_in_a_callback():
    pipe, seen = piped(made(num_classes=3), num_inference_steps=4), []

    def off_after_two(pipeline, step, timestep, tensors):
        seen.append((pipeline.guidance_scale, pipeline.do_classifier_free_guidance))
        if step == 1:
            pipeline._guidance_scale = 1.0
        return tensors

    given = {"class_labels": 1, "guidance_scale": 5.0}
    out = pipe(**given, generator=seeded(), callback_on_step_end=off_after_two)
    assert seen == [(5.0, True)] * 2 + [(1.0, False)] * 2
    assert out.num_network_calls == 2 * 2 + 2, "the model is still called twice a step"
    assert pipe(**given).num_network_calls == 8, "the change outlives its call"


def test_guidance_that_a_callback_turns_on_needs_labels_too():
    pipe = piped(made(num_classes=3), num_inference_steps=4)

    def on(pipeline, step, timestep, tensors):
        pipeline._guidance_scale = 3.0
        return tensors

    with pytest.raises(ValueError, match="guidance_scale=3.0 needs `class_labels`"):
        pipe(callback_on_step_end=on)
    assert pipe(class_labels=1, callback_on_step_end=on).num_network_calls == 7


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, float("nan")])
def test_a_guidance_scale_of_the_other_convention_is_refused(scale):
    with pytest.raises(ValueError, match="at least 1, which turns guidance off"):
        piped(made(num_classes=3))(class_labels=1, guidance_scale=scale)


def test_guidance_of_scale_g_is_the_papers_with_weight_g_minus_1():
    # With one position and one step the law is known: log p ~ g log p(c) - (g - 1) log p.
    model = made(num_classes=2, max_position_embeddings=1)
    x = torch.full((1, 1), 5)
    log_p = [
        model(x, class_labels=torch.tensor([c])).logits[0, 0, :5].log_softmax(-1) for c in (1, 2)
    ]
    expected = (2.5 * log_p[0] - 1.5 * log_p[1]).softmax(-1)
    out = piped(model)(
        class_labels=1,
        guidance_scale=2.5,
        batch_size=20_000,
        num_inference_steps=1,
        generator=seeded(),
    )
    found = torch.bincount(out.sequences.flatten(), minlength=5) / 20_000
    assert (found - expected).abs().max() < 0.015
    assert (expected - log_p[0].exp()).abs().max() > 0.05, "no guidance to be seen: no test"


def test_an_interrupted_call_asks_the_model_no_more():
    pipe = piped(made(), num_inference_steps=8)

    def stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 2
        return tensors

    out = pipe(batch_size=20, callback_on_step_end=stop)
    assert pipe.interrupt and out.num_network_calls == 3
    assert bool((out.sequences == 5).any()), "masks are left, since it was not finished"
    assert pipe(batch_size=20).num_network_calls > 3 and not pipe.interrupt


ENDS, TEXT = {3}, {"b": 0, "x": 4, "y": 5, "z": 6}
CASES = {  # tokens, how many of them are given, the text; d ends a text
    "end": ([0, 1, 3, 2, 3], 0, "ab"),
    "none": ([0, 1, 2], 0, "abc"),
    "first": ([3, 0, 1], 0, ""),
    "in the prompt": ([0, 3, 1, 2, 3, 0], 3, "adbc"),
    "only given": ([0, 3, 1], 3, "adb"),
}


@pytest.mark.parametrize(("ids", "given", "text"), CASES.values(), ids=CASES.keys())
def test_a_text_ends_at_its_first_end_token_and_a_given_one_stays_visible(ids, given, text):
    assert texts_of(torch.tensor([ids]), [given], frozenset(ENDS), letters()) == [text]


def test_a_beginning_that_is_the_same_token_as_an_end_ends_no_text():
    tokenizer = letters()
    tokenizer.bos_token = tokenizer.eos_token = "d"
    assert texts_of(torch.tensor([[3, 0, 1, 3, 2]]), [0], frozenset(ENDS), tokenizer) == ["ab"]


def test_texts_of_a_pipeline_are_not_glued_over_an_end_token():
    tokenizer, model = letters(), made()
    tokenizer.eos_token = tokenizer.pad_token = "d"
    pipe = piped(model, tokenizer=tokenizer, num_inference_steps=2)
    out = pipe(batch_size=50, generator=seeded())
    ended = 0
    for ids, text in zip(out.sequences.tolist(), out.texts, strict=True):
        whole = "".join("abcd?_"[token] for token in ids)
        assert text == whole.split("d")[0].replace("?", "")
        ended += "d" in whole.rstrip("d")
    assert ended > 5, "no sample had anything behind an end: no test"
    model.config.eos_token_id = [1]
    tokenizer.eos_token = None
    out = pipe(batch_size=9, generator=seeded())
    assert not any("b" in text for text in out.texts), "the ends of the model are not looked at"


BEHIND = [
    (RobertaForMaskedLM, RobertaConfig),
    (XLMRobertaForMaskedLM, XLMRobertaConfig),
    (CamembertForMaskedLM, CamembertConfig),
    (EsmForMaskedLM, EsmConfig),
    (MPNetForMaskedLM, MPNetConfig),
]


@pytest.mark.parametrize(("kind", "config"), BEHIND, ids=lambda c: c.__name__)
def test_positions_behind_the_padding_leave_a_shorter_default_length(kind, config):
    model = kind(config(**SIZES))
    model.config.mask_token_id = 4
    assert window(model) == 16
    assert piped(model)(num_inference_steps=1).sequences.shape == (1, 16)
    with pytest.raises(ValueError, match=r"length=17 must lie in \[1, 16\]"):
        piped(model)(length=17)


def test_a_model_without_such_an_offset_keeps_its_window():
    assert window(BertForMaskedLM(BertConfig(**SIZES))) == 18
    assert window(made()) == 8
    rotary = EsmForMaskedLM(EsmConfig(**SIZES, position_embedding_type="rotary"))
    rotary.config.mask_token_id = 4
    length = window(rotary)
    assert piped(rotary)(num_inference_steps=1).sequences.shape == (1, length)
