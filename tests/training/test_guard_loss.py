"""A student whose samples are its teacher's to the bit, and whose predictions are as wrong as can
be where no sample of one call ever comes: only the loss can tell."""

from __future__ import annotations

import functools

import pytest
import torch
from test_guard import quietly
from training_runs import At, distilling, weights
from transformers import BertConfig, BertForMaskedLM

pytestmark = pytest.mark.filterwarnings("ignore:A student of one call")
MASK = 2
#: Two letters that are equal: of (a, mask) Bayes says a, of (mask, mask) each with 1/2.
ROWS = torch.tensor([[0, 0], [1, 1]] * 16)


@functools.cache
def knows_both():
    """A masked LM that has learned them, whose output weights are not its embeddings."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 2, "tie_word_embeddings": False}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForMaskedLM(BertConfig(vocab_size=3, mask_token_id=MASK, **sizes, **quiet))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    shown = torch.tensor([[False, True], [True, False], [False, False], [False, False]])
    for _ in range(60):
        hidden = ~shown.repeat_interleave(8, 0)
        labels = torch.where(hidden, ROWS, -100)
        model(torch.where(hidden, MASK, ROWS), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def read_wrongly(model):
    """Each letter is taken for the other, the mask for what it is."""
    embeddings = model.get_input_embeddings().weight
    embeddings[:2] = embeddings[:2].flip(0).clone()


def said_of(denoiser, first):
    """p(a) at the second position, behind what the first one shows."""
    x_t = torch.tensor([[first, MASK]])
    return float(denoiser(x_t, 0.5).log_conditional[0, 1, 0].detach().exp())


def trained(folder, objective):
    """One that nothing moves but a fault before its last step; its samples are of one call."""

    def harm(state, control):
        if state.global_step == 11:
            read_wrongly(trainer.model)

    settings = {"max_steps": 12, "ema_decay": 0, "learning_rate": 1e-9, "student_steps": 1}
    settings |= {"per_device_train_batch_size": 2, "callbacks": [At("on_step_begin", harm)]}
    data = [{"input_ids": row} for row in ROWS.tolist()]
    trainer = distilling(folder, knows_both(), data, objective=objective, **settings)
    assert said_of(trainer.denoiser(), 0) > 0.9 > 0.1 > said_of(trainer.denoiser(), 1)
    return trainer, quietly(trainer)


def test_student_whose_loss_alone_is_worse_is_kept(tmp_path):
    trainer, (said,) = trained(tmp_path, {"type": "ecd", "coupling": "forward"})
    own, teacher = trainer.guard.last.distances
    assert own == teacher, "the samples say nothing"
    assert "no nearer to the data, at a loss that is" in said
    higher, error = (float(x) for x in said.split("at a loss that is ")[1].split()[:3:2])
    assert higher > error > 0
    for name, weight in weights(trainer.model).items():
        torch.testing.assert_close(weight, knows_both().state_dict()[name], atol=1e-5, rtol=0)
    assert said_of(trainer.denoiser(), 0) > 0.9


@pytest.mark.parametrize("objective", ["ecd", "distribution_matching"])
def test_student_is_put_back_by_a_loss_that_does_not_see_it(tmp_path, objective):
    """One step of the student's own decides all, so that ECD with its own coupling asks it how sure
    it is of what it drew itself; and what moves along a reward is no distance."""
    trainer, said = trained(tmp_path, objective)
    assert said == []
    assert said_of(trainer.denoiser(), 0) < 0.1, "it has kept its fault"
