"""A pipeline of two models: one drafts, the other's law is drawn from."""

from __future__ import annotations

import pytest
import torch
import transformers
from pipeline_cases import letters, made, piped, seeded

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.denoisers import Drafted
from hf_ddistill.models import as_denoiser
from hf_ddistill.pipelines import DiscreteDiffusionPipeline, Trace
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Canvas, Speculative
from hf_ddistill.schedulers import AncestralScheduler, SamplerScheduler


def pair(teacher=None, drafter=None, **settings):
    teacher = made() if teacher is None else teacher
    drafter = made(seed=1, noise_dim=2) if drafter is None else drafter
    pipe = DiscreteDiffusionPipeline.from_model(teacher, drafter=drafter, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_call_draws_other_tokens_than_the_sampler_with_both_or_counts_others_calls():
    pipe = pair(num_inference_steps=1)
    teacher, drafter = pipe.model, pipe.drafter
    seen = {"teacher": 0, "drafter": 0}
    for name, model in (("teacher", teacher), ("drafter", drafter)):
        model.register_forward_pre_hook(lambda *_, name=name: seen.update({name: seen[name] + 1}))
    out = pipe(batch_size=3, generator=[seeded(i) for i in range(3)])
    counted = dict(seen)
    denoiser = Drafted(as_denoiser(teacher), as_denoiser(drafter))
    canvas, generators = Canvas.empty((3, 8)), [seeded(i) for i in range(3)]
    assert torch.equal(out.sequences, Speculative().sample(denoiser, canvas, 1, generators))
    assert (out.num_network_calls, out.num_drafter_calls) == tuple(counted.values())
    assert int(out.calls.max()) <= out.num_network_calls
    torch.testing.assert_close(out.tokens_per_call, 8 / out.calls)


def test_a_row_s_calls_hang_on_its_batch_or_those_given_count_as_drawn():
    pipe = pair()
    given = {"input_ids": torch.tensor([1, 2, 3]), "num_inference_steps": 1}
    all_rows = pipe(batch_size=3, generator=[seeded(i) for i in range(3)], **given)
    alone = pipe(generator=[seeded(2)], **given)
    assert torch.equal(all_rows.sequences[2:], alone.sequences)
    assert torch.equal(all_rows.calls[2:], alone.calls)
    torch.testing.assert_close(alone.tokens_per_call, 5 / alone.calls)


def test_a_teacher_that_drafts_for_itself_says_no_calls_by_row():
    out = piped(made(), SamplerScheduler, sampler="speculative")(generator=seeded())
    assert out.num_drafter_calls is None
    assert out.calls.tolist() == [out.num_network_calls]
    assert piped(made())(generator=seeded(), num_inference_steps=2).calls is None


def test_confidence_is_the_drafter_s():
    pipe, trace = pair(drafter=made(seed=1)), Trace()
    watching = {"callback_on_step_end_tensor_inputs": trace.inputs}
    pipe(callback_on_step_end=trace, generator=seeded(), num_inference_steps=8, **watching)
    denoiser, before, checked = as_denoiser(pipe.model), torch.full((1, 8), 5), 0
    for moment in trace.moments:
        if moment.changed.sum() == 1:
            with torch.no_grad():
                law = denoiser(before, (before == 5).double().mean(1)).log_conditional.exp()
            token = moment.sequences[..., None]
            said = law.gather(-1, token)[..., 0][moment.changed].double()
            torch.testing.assert_close(moment.confidence[moment.changed], said)
            checked += 1
        before = moment.sequences
    assert checked


def test_the_sampler_is_not_speculative_unless_another_is_given(tmp_path):
    made().save_pretrained(tmp_path / "teacher")
    made(seed=1).save_pretrained(tmp_path / "student")
    names = {"drafter": tmp_path / "student"}
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "teacher", **names)
    assert pipe.scheduler.sampler == Speculative()
    scheduler = SamplerScheduler.from_config(
        pipe.scheduler.config, sampler={"type": "speculative", "lookahead": 2}
    )
    kept = DiscreteDiffusionPipeline.from_pretrained(
        tmp_path / "teacher", scheduler=scheduler, **names
    )
    assert kept.scheduler.sampler.lookahead == 2
    other = AncestralScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = other
    with pytest.raises(ValueError, match="'ancestral' takes no drafts"):
        pipe()


def test_what_is_saved_opens_without_its_drafter_or_with_another(tmp_path):
    pipe = pair()
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "drafter" / "model.safetensors").is_file()
    again = DiscreteDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    same = [each(batch_size=2, generator=seeded()) for each in (pipe, again)]
    assert torch.equal(same[0].sequences, same[1].sequences)
    assert same[0].num_drafter_calls == same[1].num_drafter_calls > 0
    assert DiscreteDiffusionPipeline.from_pretrained(tmp_path, drafter=None).drafter is None
    half = DiscreteDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    assert {half.model.dtype, half.drafter.dtype} == {torch.float16}
    (tmp_path / "drafter" / "model.safetensors").unlink()
    with pytest.raises((ValueError, OSError), match=r"model\.safetensors"):
        DiscreteDiffusionPipeline.from_pretrained(tmp_path)


def test_the_pipeline_of_transformers_takes_none(tmp_path):
    made(seed=1, noise_dim=2).save_pretrained(tmp_path)
    generate = transformers.pipeline(
        "discrete-diffusion", model=made(), tokenizer=letters(), drafter=str(tmp_path)
    )
    rows = generate("ab", num_return_sequences=2, generator=seeded())
    assert all(row["generated_text"].startswith("ab") for row in rows)
    assert all(row["tokens_per_call"] == pytest.approx(6 / row["calls"]) for row in rows)
    plain = transformers.pipeline("discrete-diffusion", model=made(), tokenizer=letters())
    assert "calls" not in plain(num_inference_steps=2)[0]
    assert "calls" in plain(drafter=made(seed=1))[0]


@pytest.mark.parametrize(
    ("drafter", "call", "said"),
    [
        (made(Absorbing(7)), {}, "vocab_size"),
        (made(Absorbing(6, 0)), {}, "mask_token_id"),
        (made(max_position_embeddings=7), {}, "takes at most 7 tokens, and the samples have 8"),
        (made(token_shape=(2, 2), max_position_embeddings=4), {"length": 3}, "takes 4 tokens"),
        (made(), {"class_labels": 1}, "drafter has num_classes=0"),
    ],
    ids=["vocabulary", "mask", "window", "grid", "classes"],
)
def test_a_drafter_that_does_not_fit_is_taken(drafter, call, said):
    teacher = made(num_classes=2) if "class_labels" in call else made()
    with pytest.raises(ValueError, match=said):
        pair(teacher, drafter)(**call)


def test_a_model_of_blocks_drafts_or_is_drafted_for():
    sizes = {"vocab_size": 6, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=8)
    blocks, _ = to_block_diffusion(transformers.LlamaForCausalLM(config), mask_token_id=5)
    with pytest.raises(ValueError, match="decodes by blocks"):
        pair(made(), blocks)()
    pipe = piped(blocks)
    pipe.drafter = made()
    with pytest.raises(ValueError, match="drafter: not for BlockDiffusionLM"):
        pipe(input_ids=torch.tensor([1]))
