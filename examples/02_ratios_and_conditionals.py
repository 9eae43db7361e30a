"""ECD's Eq. 8 on a joint law that is known: p(x_0 | x_t) comes back from density ratios alone.

Three binary tokens with a random joint law. The ratios p_t(y) / p_t(x) are summed up by brute
force; the closed form then gives the posterior of every token, for every process.

    python examples/02_ratios_and_conditionals.py
"""

import itertools

import torch

from hf_ddistill import Diffusion, Prediction, Process
from hf_ddistill.parameterizations import recover

K, L, T = 4, 3, 0.6
torch.manual_seed(0)

for name, cls in sorted(Process.registry.items()):
    diffusion = Diffusion(cls.example(K))
    tokens = [k for k in range(K) if k not in diffusion.process.noise_tokens]
    clean = torch.tensor(list(itertools.product(tokens, repeat=L)))
    law = torch.rand(len(clean), dtype=torch.float64)
    law /= law.sum()

    kernel = diffusion.kernel(0.0, T).dense()
    noisy = torch.tensor(list(itertools.product(range(K), repeat=L)))
    # p_t(x_t | x_0) for every pair of whole sequences, then the marginal law at t.
    likelihood = kernel[clean[:, None], noisy[None]].prod(-1)
    marginal = law @ likelihood
    index = {tuple(x): i for i, x in enumerate(noisy.tolist())}

    worst = 0.0
    for x, mass in zip(noisy, marginal, strict=True):
        if mass == 0:
            continue
        posterior = law * likelihood[:, index[tuple(x.tolist())]] / mass
        for i in range(L):
            changed = x.repeat(K, 1)
            changed[:, i] = torch.arange(K)
            ratios = torch.stack([marginal[index[tuple(y)]] for y in changed.tolist()]) / mass
            truth = torch.zeros(K, dtype=torch.float64).index_add_(0, clean[:, i], posterior)
            found = recover(ratios[None, None], diffusion, x[i][None, None], T)[0, 0]
            worst = max(worst, float((found - truth).abs().max()))
            if not diffusion.undetermined(x[i][None, None]).item():
                continue  # an unmasked token is certain: its ratios to other tokens say more
            back = Prediction(truth.clamp_min(1e-300).log()[None, None])
            score = back.score(diffusion, x[i][None, None], T)[0, 0]
            worst = max(worst, float((score - ratios).abs().max() / ratios.max()))
    print(f"{name:10} ratios <-> conditional, all states and tokens: largest error {worst:.1e}")
    assert worst < 1e-8
