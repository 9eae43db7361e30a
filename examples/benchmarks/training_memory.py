"""What a training step holds at one time, in units of one float32 (B, L, K) tensor.

    python examples/benchmarks/training_memory.py [--vocabulary 151936] [--json FILE]

Peak bytes of the tensors that are made from the loss to the last gradient, weights and data left
out: counted by a dispatch mode, small networks' own activations and gradients included. Blocks of
8 tokens, decoded in four calls each; all rows are whole. B are the rows that the student is asked
at: of `didi` 4 draws of each row, of `redi` 4 looks at each, of `di4c` 2 parts of the mixture.
"""

import argparse
import gc
import json

import torch
from benchmark_files import rows_file
from transformers import LlamaConfig, LlamaForCausalLM
from vocabulary import PeakBytes

from hf_ddistill import Absorbing, Diffusion, Uniform, as_denoiser, to_block_diffusion
from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.lsd import Coefficients

LENGTH, ROWS, BLOCK, CALLS = 64, 8, 8, 4
DDIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "cond_dim": 8}
LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
CALL = {"type": "law_matching", "horizon": "call"}
#: By name: the objective's settings, the process, the width of the student's noise, its calls.
SEQUENCES = {
    "nelbo": ({"type": "nelbo"}, Absorbing, 0, 1),
    "ecd": ({"type": "ecd"}, Absorbing, 0, 1),
    "acceptance": ({"type": "acceptance"}, Absorbing, 0, 1),
    "law_matching": (CALL, Absorbing, 2, 4),
    "law_matching_policy": ({"type": "law_matching"}, Absorbing, 0, 4),
    "law_matching_in_one_call": (CALL, Absorbing, 2, 1),
    "law_matching_mean": ({**CALL, "divergence": "mean_kl"}, Absorbing, 2, 4),
    "nelbo_uniform": ({"type": "nelbo"}, Uniform, 0, 1),
    "ecd_uniform": ({"type": "ecd"}, Uniform, 0, 1),
    "law_matching_uniform": ({"type": "law_matching"}, Uniform, 0, 2),
    "alpha": ({"type": "alpha", "sharpness": 0.5}, Absorbing, 0, 1),
    "sdtt": ({"type": "sdtt"}, Absorbing, 0, 2),
    "mcd": ({"type": "mcd"}, Absorbing, 0, 2),
    "dcd": ({"type": "dcd", "times": "step_times"}, Uniform, 0, 2),
    "redi": ({"type": "redi", "teacher_steps": 2}, Uniform, 0, 2),
    "fs_dfm": ({"type": "fs_dfm"}, Uniform, 2, 2),
    "lsd": ({"type": "lsd", "teacher_steps": 4}, Absorbing, 0, 2),
    "d_mmd": ({"type": "distribution_matching"}, Absorbing, 2, 2),
    "idlm": ({"type": "distribution_matching", "setting": "idlm"}, Absorbing, 2, 2),
    "di_mo": ({"type": "distribution_matching", "setting": "di_mo"}, Absorbing, 2, 2),
    "simplex_dmd": ({"type": "simplex_dmd"}, Absorbing, 2, 2),
    "reinforce_dmd": ({"type": "reinforce_dmd"}, Absorbing, 2, 2),
    "representation_mmd": ({"type": "representation_mmd"}, Absorbing, 0, 2),
    "reranked": ({"type": "reranked", "group": 4}, Absorbing, 0, 2),
    "didi": ({"type": "didi"}, Absorbing, 0, 2),
    "di4c": ({"type": "di4c", "components": 2}, Absorbing, 2, 2),
    "imdm": ({"type": "imdm", "teacher_steps": 4}, Absorbing, 2, 2),
}
#: How many rows of the student stand for one of the batch: draws, looks, parts of a mixture.
ASKED = {"didi": 4, "redi": 4, "di4c": 2}
CALL = {"type": "law_matching", "horizon": "call"}
#: By name: the objective's settings.
BLOCKS = {
    "bd3lm": {"type": "bd3lm"},
    "opdlm": {"type": "opdlm"},
    "opdlm_top_k": {"type": "opdlm", "top_k": 16},
    "opdlm_posterior": {"type": "opdlm", "target": {"completions": 2}},
    "block_law_matching": {"type": "block_law_matching"},
    "block_acceptance": {"type": "block_acceptance"},
    "causal_law_matching": {"type": "causal_law_matching"},
    "causal_law_matching_pathwise": {"type": "causal_law_matching", "pathwise": True},
    "causal_law_matching_one": {"type": "causal_law_matching", "calls": "one"},
    "outcome_reward": {"type": "outcome_reward"},
    "cdlm": {"type": "cdlm"},
    "d2f": {"type": "d2f", "block_size": BLOCK},
    "d2f_hints": {"type": "d2f", "block_size": BLOCK, "hints": {"sees": 0.3, "limit": 0.1}},
    "dparallel": {"type": "dparallel"},
    "dparallel_every_block": {"type": "dparallel", "every_block": True},
    "pseudo_trajectory": {"type": "pseudo_trajectory", "certainty": 2.0},
    "t3d": {"type": "t3d"},
}


def sequences(name, size, seed=0):
    """An objective and a step of it, of networks of whole sequences."""
    settings, process, noise, calls = SEQUENCES[name]
    diffusion, models = Diffusion(process(size)), []
    for dim in (noise, 0, 0):
        torch.manual_seed(0)
        config = DDiTConfig(vocab_size=size, max_position_embeddings=LENGTH, noise_dim=dim, **DDIT)
        models.append(DDiTForDiscreteDiffusion(config))
    objective = Objective.from_config(settings)
    step = step_of(models, diffusion, size, seed, steps=calls)
    step.peers.update(mean=step.student, coefficients=Coefficients())
    for name, need in objective.networks.items():
        if getattr(need, "factory", None) is not None:
            step.peers[name] = need.build(name, models[0], diffusion, 0)
            with torch.no_grad():  # one that says nothing yet has no gradient for anybody
                for weight in step.peers[name].parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.1)
    return objective, step


def blocks(name, size, seed=0):
    """The same of block diffusion."""
    torch.manual_seed(0)
    causal, models = LlamaForCausalLM(LlamaConfig(vocab_size=size, **LLAMA)), []
    for _ in range(3):
        model, _ = to_block_diffusion(causal, mask_token_id=size - 1, block_size=BLOCK)
        models.append(model)
    noise = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(seed))
    rounds = noise.unflatten(1, (-1, BLOCK)).argsort(-1).argsort(-1).flatten(1) * CALLS // BLOCK
    log_prob = torch.full((ROWS, LENGTH), -1.0, dtype=torch.float64)
    more = {"trajectory": Trajectory(rounds, BLOCK, log_prob), "reward": torch.rand(ROWS)}
    diffusion = Diffusion(Absorbing(size))
    return Objective.from_config(BLOCKS[name]), step_of(models, diffusion, size, seed, **more)


def step_of(models, diffusion, size, seed, steps=1, **more):
    models[1].eval().requires_grad_(False)
    student, teacher, auxiliary = (as_denoiser(model, diffusion) for model in models)
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(0, size - 1, (ROWS, LENGTH), generator=generator)
    peers = {"teacher": teacher, "auxiliary": auxiliary}
    return TrainingStep(x_0, diffusion, student, peers, 0.5, generator, steps, **more)


def units(name, size=20_000, seed=0):
    """The peak of one step."""
    objective, step = (sequences if name in SEQUENCES else blocks)(name, size, seed)
    gc.collect()
    with PeakBytes() as alive:
        losses = objective(step)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    return alive.peak / (4 * ROWS * ASKED.get(name, 1) * LENGTH * size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SEQUENCES, *BLOCKS]
    parser.add_argument("--objectives", nargs="+", default=names, choices=names)
    parser.add_argument("--vocabulary", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.objectives:
        peaks = [round(units(name, args.vocabulary, seed), 2) for seed in range(args.seeds)]
        rows.append({"objective": name, "K": args.vocabulary, "peak_units": peaks})
        print(json.dumps(rows[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
