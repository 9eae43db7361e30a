"""The DDiT network: what reaches its output, and in which form."""

from __future__ import annotations

import pytest
import torch
from ddit_cases import FULL, LENGTH, VOCAB, build, full_inputs, tokens

from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_padding_is_not_attended(attention: str, positions: str) -> None:
    model = build(position_embedding=positions, attn_implementation=attention).requires_grad_(False)
    x, short = tokens(), 5
    mask = torch.ones_like(x)
    mask[1, short:] = 0
    together = model(x, attention_mask=mask).logits
    torch.testing.assert_close(together[:1], model(x[:1]).logits, atol=1e-5, rtol=1e-5)
    alone = model(x[1:, :short]).logits
    torch.testing.assert_close(together[1:, :short], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(x).logits[1:, :short], alone, atol=1e-3)


def test_eager_and_sdpa_agree() -> None:
    eager = build(attn_implementation="eager", **FULL).requires_grad_(False)
    other = build(attn_implementation="sdpa", **FULL).requires_grad_(False)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, 6:] = 0
    inputs = full_inputs() | {"attention_mask": mask}
    torch.testing.assert_close(
        other(**inputs).logits[mask.bool()], eager(**inputs).logits[mask.bool()]
    )


def test_recorded_outputs_have_every_layer() -> None:
    model = build(attn_implementation="eager")
    output = model(tokens(), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2
    assert output.attentions[0].shape == (2, 4, LENGTH, LENGTH)
    torch.testing.assert_close(output.attentions[1].sum(-1), torch.ones(2, 4, LENGTH))
    assert isinstance(model(tokens(), return_dict=False), tuple)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = build(**FULL).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            assert model.model.layers[0].gradient_checkpointing
        model(**full_inputs(), labels=tokens()).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_noise_reaches_the_output_and_none_adds_nothing() -> None:
    model = build(noise_dim=2)
    noise = torch.randn(2, LENGTH, 2, generator=torch.Generator().manual_seed(3))
    silent = model(tokens()).logits
    assert torch.equal(model(tokens(), noise=torch.zeros_like(noise)).logits, silent)
    assert not torch.allclose(model(tokens(), noise=noise).logits, silent, atol=1e-2)
    with pytest.raises(ValueError, match=r"must be \(B, L, noise_dim\)"):
        model(tokens(), noise=noise[:, :1])


def test_an_input_the_model_has_no_place_for_is_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="noise_dim=0"):
        model(tokens(), noise=torch.zeros(2, LENGTH, 0))
    with pytest.raises(ValueError, match="num_classes=0"):
        model(tokens(), class_labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(
        ValueError, match=r"class_labels has shape \(3,\); it must be \(B,\) = \(2,"
    ):
        build(num_classes=3)(tokens(), class_labels=torch.tensor([0, 1, 2]))


def test_no_class_label_is_the_null_class() -> None:
    model = build(num_classes=3)
    outputs = [model(tokens(), class_labels=torch.full((2,), c)).logits for c in range(4)]
    assert torch.equal(model(tokens()).logits, outputs[3])
    for c in range(3):
        assert not torch.allclose(outputs[c], outputs[3], atol=1e-3)


def test_time_is_used_and_asked_for() -> None:
    model = build(time_conditioning=True)
    early, late = (model(tokens(), torch.full((2,), t)).logits for t in (0.1, 0.9))
    assert not torch.allclose(early, late, atol=1e-3)
    mixed = model(tokens(), torch.tensor([0.1, 0.9])).logits
    torch.testing.assert_close(mixed, torch.stack([early[0], late[1]]))
    with pytest.raises(ValueError, match="timesteps is None"):
        model(tokens())
    ignorant = build()
    assert torch.equal(ignorant(tokens(), torch.ones(2)).logits, ignorant(tokens()).logits)


def test_at_equals_the_selected_logits() -> None:
    model = build()
    at = tokens() > 4
    full = model(tokens(), labels=tokens().where(at, -100))
    places = at.flatten().nonzero()[:, 0]
    some = model(tokens(), at=places, labels=tokens())
    torch.testing.assert_close(some.logits, full.logits[at])
    torch.testing.assert_close(some.loss, full.loss)
    assert model(tokens(), at=places[:0]).logits.shape == (0, VOCAB)


def test_the_last_layer_works_at_positions_that_nobody_asks_for() -> None:
    model = build(time_conditioning=True)
    t, at = torch.tensor([0.2, 0.9]), torch.tensor([1, 3, 12])
    full = model(tokens(), t).logits.flatten(0, 1)[at]
    seen: list[int] = []
    hook = model.model.layers[-1].mlp.register_forward_hook(
        lambda _, given, out: seen.append(out.numel() // out.shape[-1])
    )
    torch.testing.assert_close(model(tokens(), t, at=at).logits, full)
    hook.remove()
    assert seen == [3]


def test_loss_is_not_shifted_and_ignores_minus_100() -> None:
    model = build()
    labels = tokens().clone()
    labels[:, ::2] = -100
    output = model(tokens(), labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, 1::2].mT, labels[:, 1::2])
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("token_shape", [None, [2, 4]])
@pytest.mark.parametrize("positions", ["rotary", "learned", "rotary_learned"])
def test_positions_are_not_ignored(positions: str, token_shape: list[int] | None) -> None:
    model = build(position_embedding=positions, token_shape=token_shape)
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    permuted = model(tokens()[:, order]).logits
    assert not torch.allclose(permuted, model(tokens()).logits[:, order], atol=1e-2)


def test_learned_positions_tell_masks_apart() -> None:
    masked = torch.full((1, LENGTH), VOCAB - 1)
    for positions in ("learned", "rotary_learned"):
        logits = build(position_embedding=positions)(masked).logits
        assert torch.pdist(logits[0]).min() > 1e-2


def test_axial_rotary_measures_offsets_on_the_grid() -> None:
    """On a 4 x 4 grid, from 3 = (0, 3) to 4 = (1, 0) is one index but not one column."""
    for token_shape, next_index_is_next_column in ((None, True), ([4, 4], False)):
        model = build(token_shape=token_shape, attn_implementation="eager", num_hidden_layers=1)
        constant = torch.zeros(1, 16, dtype=torch.long)
        scores = model(constant, output_attentions=True).attentions[0][0].log()
        offset = scores - scores.diagonal(dim1=1, dim2=2)[..., None]
        torch.testing.assert_close(offset[:, 0, 1], offset[:, 5, 6], atol=1e-5, rtol=0)
        torch.testing.assert_close(offset[:, 0, 4], offset[:, 9, 13], atol=1e-5, rtol=0)
        wrapped = torch.allclose(offset[:, 3, 4], offset[:, 0, 1], atol=1e-4)
        assert wrapped == next_index_is_next_column


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="max_position_embeddings=4"):
        build(max_position_embeddings=4)(tokens())
    with pytest.raises(ValueError, match=r"token_shape=\[2, 3\] has 6"):
        build(token_shape=[2, 3], position_embedding="learned")(tokens(length=5))


def test_bfloat16_forward_is_finite_and_close() -> None:
    exact = build(**FULL)(**full_inputs()).logits
    rounded = build(**FULL).to(torch.bfloat16)(**full_inputs()).logits
    assert rounded.dtype == torch.bfloat16 and rounded.isfinite().all()
    assert (rounded.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_start_is_the_identity_with_a_condition_and_not_without() -> None:
    def fresh(**changes: object) -> DDiTForDiscreteDiffusion:
        torch.manual_seed(0)
        return DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=VOCAB, hidden_size=64, **changes))

    model = fresh(time_conditioning=True)
    hidden = model(tokens(), torch.ones(2), output_hidden_states=True).hidden_states
    assert torch.equal(hidden[0], hidden[-2])
    model = fresh(position_embedding="learned", noise_dim=4)
    assert model.model.layers[0].modulation is None
    stds = {
        "embed_tokens": model.model.embed_tokens.weight.std().item(),
        "embed_positions": model.model.embed_positions.weight.std().item(),
        "noise": 2 * model.model.noise_proj.weight.std().item(),
    }
    assert stds == pytest.approx(dict.fromkeys(stds, 0.3), rel=0.15)
