"""The benchmark of masked language models: figures whose values are known, and matched ones."""

from __future__ import annotations

import importlib

import pytest
import torch
from masked_lm_families import masked_lm

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def judge():
    return importlib.import_module("masked_lms_judge")


def test_a_teacher_of_another_diversity_is_put_beside_a_student():
    rows = [
        {"pairs": 5.0, "found": 0.2, "temperature": 1.0},
        {"pairs": 3.0, "found": 0.8, "temperature": 0.5},
        {"pairs": 4.0, "found": 0.6, "temperature": 0.8},
    ]
    figures, temperature = judge().at_diversity(rows, 4.25)
    assert figures == {"found": pytest.approx(0.5), "pairs": 4.25}
    assert temperature == pytest.approx(0.85)
    assert judge().at_diversity(rows, 2.9) is None and judge().at_diversity(rows, 5.1) is None


def test_a_letter_is_scored_by_a_model_that_sees_it(tmp_path):
    """Beside a loop written by hand, over all letters of texts short enough to be scored whole."""
    model, tokenizer = masked_lm("bert", tmp_path)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "model")
    texts = ["acdef", "fedca"]
    figures = judge().Figures(str(tmp_path / "model"), tokenizer, texts, molecules=False)
    found, special = [], [k for k in tokenizer.all_special_ids if k != tokenizer.mask_token_id]
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for place in range(1, ids.shape[1] - 1):
            x_t = ids.clone()
            x_t[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(input_ids=x_t).logits[0, place]
            logits[[*special, tokenizer.mask_token_id]] = -torch.inf
            found.append(-logits.log_softmax(-1)[ids[0, place]].item())
    assert figures.pseudo_nll(texts) == pytest.approx(sum(found) / len(found), rel=1e-5)
    assert figures.divergence(["aaaaa"]) > 1 > 0.01 > figures.divergence(texts) > -0.01
    told = figures(["acdef", "acdeg"])
    assert told["found"] == 0.75 and told["distinct"] == 1.0
