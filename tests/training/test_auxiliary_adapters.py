"""Teacher, student and auxiliary over one copy of a pretrained model: no adapters, and two sets of
them."""

from __future__ import annotations

import copy

import pytest
import torch
from bert_folders import TOKENS, bert_folder, opened_bert, same_law
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from test_dllm_training import model as block_model
from training_runs import differing, distilling, means_of, rows, stop_after, tiny, weights

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.hub import load_model
from hf_ddistill.models import as_denoiser
from hf_ddistill.processes import Absorbing
from hf_ddistill.training.trained_state import trained_state

SETTINGS = {"max_steps": 3, "learning_rate": 0.05, "student_steps": 2, "auxiliary_lag": 0}
SETTINGS |= {"collapse_share": 0}
BLOCKS = {"rollouts": {"tokens": 8, "steps_per_block": 2, "unmasking": "static"}}
#: Objectives with an auxiliary denoiser, of rows and of blocks.
OBJECTIVES = {
    "law_matching": {"maskings": 2},
    "simplex_dmd": {},
    "distribution_matching": {},
    "causal_law_matching": BLOCKS,
    "block_law_matching": {"draws": 2},
}


def bert(folder):
    torch.manual_seed(0)
    return opened_bert(bert_folder(folder / "bert"))


def run(folder, base, objective="law_matching", data=TOKENS, lora=None, **settings):
    lora = lora or LoraConfig(r=2, target_modules="all-linear")
    objective = {"type": objective, **OBJECTIVES[objective]}
    given = SETTINGS | {"model": base, "peft_config": lora} | settings
    return distilling(folder, None, data, objective=objective, **given)


def started(folder, objective, **settings):
    """A run of each kind."""
    blocks = objective in ("causal_law_matching", "block_law_matching")
    base = block_model(4) if blocks else bert(folder)
    data = [{"input_ids": [1 + i, 2, 3, 4]} for i in range(8)] if blocks else TOKENS
    return run(folder, base, objective, data, **settings)


def auxiliary_of(trainer):
    return trainer.auxiliaries.models["auxiliary"]


def bytes_of(*models):
    """What they hold, each storage once."""
    tensors = [each for model in models for each in (*model.parameters(), *model.buffers())]
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stored.values())


def frozen(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def said_by(denoiser):
    x_t = torch.tensor([row["input_ids"] for row in TOKENS]) % 11
    x_t[:, ::2] = denoiser.diffusion.process.mask_token_id
    with torch.no_grad():
        return denoiser(x_t, 0.5).log_conditional


@pytest.mark.filterwarnings("ignore:A student of one call")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_base_is_in_memory_once_and_stays_the_teacher_bit_for_bit(tmp_path, objective):
    trainer = started(tmp_path, objective)
    student, auxiliary = trainer.model, auxiliary_of(trainer)
    # Any name will do for what is over the same weights.
    size = bytes_of(copy.deepcopy(student.get_base_model()))
    adapters = sum(p.nbytes for p in student.parameters() if p.requires_grad)
    assert bytes_of(student, auxiliary, *trainer.teacher.networks()) == size + adapters
    assert adapters == sum(p.nbytes for p in auxiliary.parameters() if p.requires_grad)

    expected, before = said_by(trainer.teacher), frozen(student)
    start = trainer.auxiliaries.networks["auxiliary"]
    auxiliary.eval()
    torch.testing.assert_close(said_by(start), expected)
    parts = weights(student), weights(auxiliary)
    trainer.train()
    assert torch.equal(said_by(trainer.teacher), expected) and not differing(
        frozen(student), before
    )
    for old, new in zip(parts, (student, auxiliary), strict=True):
        moved = differing(old, weights(new))
        assert moved and all("lora" in name for name in moved)


@pytest.mark.filterwarnings("ignore:A student of one call")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_of_each_loss_is_that_of_its_own_adapters(tmp_path, objective):
    trainer = started(tmp_path, objective, max_steps=1)
    trainer.train()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    networks = {"student": trainer.model, "auxiliary": auxiliary_of(trainer)}
    record = trainer.training_record(trainer.model, inputs, 0, 0)
    for name, loss in trainer.objective(record).items():
        for network in networks.values():
            network.zero_grad()
        loss.backward(retain_graph=True)
        touched = {
            key
            for key, network in networks.items()
            if any(p.grad is not None and p.grad.any() for p in network.parameters())
        }
        assert touched == {name}


def test_adapters_beside_the_students_learn_at_ten_times_its_rate_unless_they_are_told(tmp_path):
    for own, rate in ((None, 0.5), (0.01, 0.01)):
        trainer = run(tmp_path, bert(tmp_path), max_steps=1, auxiliary_learning_rate=own)
        groups = trainer.create_optimizer().param_groups
        assert [group["lr"] for group in groups] == [0.05, 0.05, rate, rate]
        assert trainer.facts().training["learning rate of the auxiliary"] == rate


def test_run_takes_the_steps_of_one_with_three_copies(tmp_path):
    one = run(tmp_path / "one", bert(tmp_path), logging_steps=1)
    one.train()
    three = run(tmp_path / "three", bert(tmp_path), logging_steps=1)
    own = three.auxiliaries.networks
    own["auxiliary"] = own["auxiliary"].with_networks([copy.deepcopy(auxiliary_of(three))])
    drawn = torch.get_rng_state()
    three.teacher = as_denoiser(bert(tmp_path).eval())
    torch.set_rng_state(drawn)
    three.train()
    networks = (three.model, auxiliary_of(three), *three.teacher.networks())
    assert bytes_of(*networks) > 2.5 * bytes_of(one.model, auxiliary_of(one))
    losses = [
        [
            (log["student_loss"], log["auxiliary_loss"])
            for log in t.state.log_history
            if "loss" in log
        ]
        for t in (one, three)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    assert not differing(weights(one.model), weights(three.model))
    assert not differing(weights(auxiliary_of(one)), weights(auxiliary_of(three)))


def test_checkpoints_and_good_weights_hold_adapters_alone_and_a_run_goes_on_from_them(tmp_path):
    about = {"max_steps": 14, "collapse_share": 0.5, "ema_decay": 0.9, "auxiliary_lag": 0.1}
    about |= {"learning_rate": 1e-3}
    whole = run(tmp_path / "whole", bert(tmp_path), **about)
    whole.train()
    run(tmp_path / "cut", bert(tmp_path), callbacks=[stop_after(12)], **about).train()
    resumed = run(tmp_path / "cut", bert(tmp_path), **about)
    resumed.train(resume_from_checkpoint=True)
    for one, two in (
        (weights(resumed.model), weights(whole.model)),
        (weights(auxiliary_of(resumed)), weights(auxiliary_of(whole))),
        (means_of(resumed), means_of(whole)),
        (resumed.guard.kept(), whole.guard.kept()),
    ):
        assert not differing(one, two)
    assert whole.guard.good
    kept = load_file(tmp_path / "cut" / "checkpoint-12" / "run_state.safetensors")
    assert {name for name in kept if name.startswith("auxiliary.")} == {
        f"auxiliary.{name}" for name in trained_state(auxiliary_of(whole))
    }
    of_networks = ("auxiliary.", "ema.", "guard.good.student.", "guard.good.auxiliary.")
    assert all("lora" in name for name in kept if name.startswith(of_networks))


def test_what_is_saved_is_the_students_adapters_alone(tmp_path):
    trainer = run(tmp_path / "out", bert(tmp_path), ema_decay=0)
    trainer.train()
    trainer.save_model()
    names = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    adapters = {"adapter_config.json", "adapter_model.safetensors", "base_config.json"}
    assert names == adapters | {"README.md", "run.json"}
    own = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", framework="pt") as file:
        assert {name.replace(".weight", ".default.weight") for name in file.keys()} == own  # noqa: SIM118
    assert same_law(trainer, load_model(str(tmp_path / "out")))


@pytest.mark.parametrize(
    "lora",
    [
        {"init_lora_weights": False},
        {"modules_to_save": ["decoder"]},
        {"use_dora": True},
        {"lora_dropout": 0.2},
    ],
    ids=str,
)
def test_auxiliary_starts_as_the_base_whatever_the_students_adapters_are(tmp_path, lora):
    adapters = LoraConfig(r=2, target_modules=["query", "value"], **lora)
    trainer = run(tmp_path, bert(tmp_path), lora=adapters)
    auxiliary = trainer.auxiliaries.networks["auxiliary"]
    auxiliary_of(trainer).eval()
    torch.testing.assert_close(said_by(auxiliary), said_by(trainer.teacher))
    start = weights(auxiliary_of(trainer))
    trainer.train()
    assert differing(start, weights(auxiliary_of(trainer)))


def named(folder):
    tiny(discrete_diffusion=Diffusion(Absorbing(3)).to_config()).save_pretrained(folder / "ddit")
    return load_model(str(folder / "ddit"))


@pytest.mark.parametrize("base", [bert, named, lambda _: tiny()], ids=["masked lm", "ddit", "new"])
def test_noise_input_is_trained_and_saved_with_the_adapters_and_the_teacher_has_none(
    tmp_path, base
):
    model = base(tmp_path)
    data = TOKENS if model.config.model_type == "bert" else rows(16)
    x_t = torch.tensor([row["input_ids"] for row in data[:8]])
    before = as_denoiser(copy.deepcopy(model).eval())
    x_t[:, ::2] = before.diffusion.process.mask_token_id
    expected = before(x_t, 0.5).log_conditional
    trainer = run(tmp_path / "out", model, data=data, noise_dim=3, student_steps=1, ema_decay=0)
    start = weights(trainer.model)
    assert trainer.denoiser().latent.dim == 3 and trainer.teacher.latent is None
    assert torch.equal(trainer.teacher(x_t, 0.5).log_conditional, expected)
    trainer.train()
    assert torch.equal(trainer.teacher(x_t, 0.5).log_conditional, expected)
    moved = differing(start, weights(trainer.model))
    assert any("noise_proj" in name for name in moved)
    assert all("noise_proj.modules_to_save" in name or "lora" in name for name in moved)
    trainer.save_model()
    assert (tmp_path / "out" / "model.safetensors").exists() != bool(model.config.name_or_path)
    opened = as_denoiser(load_model(str(tmp_path / "out")).eval())
    noise = opened.fresh_noise(x_t, torch.Generator().manual_seed(0))
    trainer.model.eval()
    with torch.no_grad():
        found = opened(x_t, 0.5, **noise).log_conditional.exp()
        torch.testing.assert_close(
            found, trainer.denoiser()(x_t, 0.5, **noise).log_conditional.exp()
        )
        assert not torch.allclose(
            found, opened(x_t, 0.5, noise=-noise["noise"]).log_conditional.exp()
        )


def test_auxiliary_beside_a_noised_student_trains_no_noise_input_that_nobody_asks(tmp_path):
    """Resumed under FSDP2, such a run was refused: 'Missing optimizer state for parameter'."""
    trainer = run(tmp_path, bert(tmp_path), noise_dim=4)
    trainer.train()
    trained = [name for name, p in auxiliary_of(trainer).named_parameters() if p.requires_grad]
    assert trained and not [name for name in trained if "noise_proj" in name]
    own = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert [name for name in own if "noise_proj" in name]
