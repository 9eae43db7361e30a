"""The distillation of diffusion language models through the trainer: a small Llama, LoRA and whole
students, teachers without a second copy."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rollout_settings import decoding
from slow_cases import mostly_slow
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.objectives import CDLM, D2F, T3D, DParallel, OutcomeReward, PseudoTrajectory

L, P = 16, 4
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=4)


def model(block_size):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=12, max_position_embeddings=64, **sizes, **heads)
    return to_block_diffusion(LlamaForCausalLM(config), mask_token_id=11, block_size=block_size)[0]


def rows(length):
    noise = torch.randint(11, (32, length), generator=torch.Generator().manual_seed(1))
    return Dataset.from_dict({"input_ids": noise.tolist()})


def trainer_of(objective, folder, block_size, lora, steps=3, rollouts=None, **more):
    base = model(block_size)
    students = {"model": base, "peft_config": LORA} if lora else {"teacher": base}
    students |= {"teacher": more.pop("teacher")} if "teacher" in more else {}
    reward = more.pop("reward_function", None)
    settings = {"learning_rate": 5e-3, "per_device_train_batch_size": 4}
    objective = decoding(objective, **{"tokens": L - P} | (rollouts or {}))
    if isinstance(objective, D2F):
        settings["prompt_length"] = P
    args = DiscreteDistillationConfig(
        str(folder),
        max_steps=steps,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        **settings | more,
    )
    data = rows(L if isinstance(objective, D2F) else P)
    return DiscreteDistillationTrainer(
        objective=objective, args=args, train_dataset=data, reward_function=reward, **students
    )


def zeros(x_0, drawn):
    """A reward: the share of tokens 0 to 5 among the decoded ones."""
    return ((x_0 < 6) & drawn).sum(1) / drawn.sum(1)


#: The block of the base, and an objective; 16 is full attention.
CASES = {
    "d2f": (L, D2F(block_size=4)),
    "d2f-hinted": (L, D2F(block_size=4, divergence="reverse_kl", hints={"sees": 0.3})),
    "dparallel": (4, DParallel(every_block=True)),
    "dparallel-full": (L, DParallel(block_size=4)),
    "cdlm": (4, CDLM()),
    "cdlm-full": (L, CDLM(block_size=4)),
    "pseudo_trajectory": (L, PseudoTrajectory(window=(4, 8))),
    "t3d": (4, T3D(path=0.0)),
    "outcome_reward": (4, OutcomeReward({"group": 4, "unmasking": "plackett_luce"})),
}


@pytest.mark.parametrize(
    "lora", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["lora", "whole"]
)
@pytest.mark.parametrize("case", mostly_slow(CASES, lambda case: "-" not in case))
def test_student_learns_and_its_teacher_stays(case, lora, tmp_path):
    block_size, objective = CASES[case]
    more = {}
    if case == "outcome_reward":
        more = {"reward_function": zeros, "rollouts": {"steps_per_block": 2}}
    trainer = trainer_of(objective, tmp_path, block_size, lora, **more)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all("lora_" in name for name in moved) == lora
    if not lora:
        fresh = model(block_size).state_dict()
        kept = trainer.teacher_model.state_dict()
        assert all(torch.equal(fresh[name], kept[name]) for name in fresh)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(map(torch.isfinite, torch.tensor(losses)))


@pytest.mark.parametrize(
    "divergence", ["forward_kl", pytest.param("reverse_kl", marks=pytest.mark.slow)]
)
def test_untrained_adapter_with_its_teacher_s_view_meets_no_loss(divergence, tmp_path):
    """Full attention on both sides: what is left of D2F's loss is the view alone."""
    found = {}
    for block_size in (L, 4):
        objective = D2F(block_size=block_size, divergence=divergence)
        trainer = trainer_of(objective, tmp_path, L, True, steps=1)
        trainer.train()
        found[block_size] = trainer.state.log_history[0]["loss"]
    assert abs(found[L]) < 1e-6 < found[4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The student collapses")  # one token is all that is rewarded
def test_reward_rises(tmp_path):
    trainer = trainer_of(
        OutcomeReward({"unmasking": {"type": "static", "score": "random"}}, kl=0.0),
        tmp_path,
        4,
        False,
        steps=40,
        reward_function=zeros,
        learning_rate=3e-2,
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    first, last = (sum(part) / 5 for part in (rewards[:5], rewards[-5:]))
    assert last > first + 0.2, (first, last)


@pytest.mark.slow
def test_certainty_forcing_takes_fewer_calls_for_the_same_tokens(tmp_path):
    """A whole student on its teacher's greedy decoding, one token a call."""
    trainer = trainer_of(
        DParallel(every_block=True, certainty=1.0),
        tmp_path,
        4,
        False,
        steps=60,
        rollouts={"temperature": 0.0, "unmasking": "static"},
        per_device_train_batch_size=16,
        learning_rate=1e-2,
    )
    trainer.train()
    prompts = torch.tensor(trainer.train_dataset["input_ids"])
    settings = {"max_new_tokens": L - P, "return_dict_in_generate": True}
    slow = trainer.teacher_model.generate(prompts, unmasking="static", **settings)
    found = {}
    for name, network in (("teacher", trainer.teacher_model), ("student", trainer.model)):
        rule = {"type": "threshold", "threshold": 0.5}
        out = network.eval().generate(prompts, unmasking=rule, **settings)
        same = (out.sequences == slow.sequences)[:, P:].double().mean()
        found[name] = (float(out.tokens_per_call.mean()), float(same))
    assert found["student"][0] > 1.5 * found["teacher"][0], found
    assert found["student"][1] > 0.6, found


def test_teachers_whose_rollouts_nobody_could_say_are_refused(tmp_path):
    several = [model(4), model(4)]
    with pytest.raises(ValueError, match="'dparallel' .* must be one model, and no denoiser"):
        trainer_of(DParallel(), tmp_path, 4, False, teacher=several)


@pytest.mark.parametrize("objective", ["imdm", "di4c"])
def test_a_student_of_blocks_is_asked_for_noise_first_and_refused_then(objective, tmp_path):
    args = DiscreteDistillationConfig(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="sees blocks of 4, each behind finished ones: take one"):
        DiscreteDistillationTrainer(
            teacher=model(4), objective=objective, args=args, train_dataset=rows(L)
        )
