"""The benchmark's laboratory of small language models whose law is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from llama_lab import BlockLab, LabSettings, Method, patches, student_of, train_llama

from hf_ddistill.laboratory.blocks import BlockDecoder, block_law
from hf_ddistill.laboratory.space import sequence_numbers
from hf_ddistill.objectives import BD3LM, OPDLM, CausalLawMatching
from hf_ddistill.unmasking import Static


def test_laboratory_holds_students_against_the_law_of_its_language_model():
    settings = LabSettings(width=8, lm_steps=3, steps=4, rows=8)
    lab = BlockLab.fitted(settings, patches())
    x = torch.randint(3, (20, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = lab.lm(input_ids=torch.cat([torch.full((20, 1), 4), x], 1)).logits
    log_p = logits[:, :-1, :3].log_softmax(-1).gather(-1, x[..., None]).sum((1, 2))
    found = lab.law[sequence_numbers(x, 3)].log()
    assert torch.allclose(found.float(), log_p, atol=1e-4)
    methods = [Method(BD3LM(), rollouts=False), Method(OPDLM(), settings={"reuse": 2})]
    methods.append(Method(CausalLawMatching()))
    for method in methods:
        start = lab.start(4)
        model = train_llama(lab, method, start, 2, replace(settings, **method.settings))
        decoder = BlockDecoder(student_of(model), 8, 4, Static("random"), 1)
        with torch.no_grad():
            law_of = block_law(decoder).law
        before, after = (net.lm.lm_head.weight for net in (start, model))
        assert float(law_of.sum()) == pytest.approx(1) and not torch.equal(before, after)
