"""What is no checkpoint of a DiT, or contradicts itself, is refused by the command in one sentence,
and nothing is left behind."""

from __future__ import annotations

import re

import pytest
import torch
from dit_checkpoints import SMALL, V, drawn, small_source, small_tokenizer

from hf_ddistill.cli.main import main
from hf_ddistill.convert import recognise


def refused(capsys, tmp_path, *argv):
    """The one line that the command says; nothing may be written."""
    before = sorted(tmp_path.iterdir())
    assert main(["convert", *map(str, argv), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and said.startswith("hf-ddistill: "), said
    assert sorted(tmp_path.iterdir()) == before
    return said


CONFIGURATIONS = [
    ("mdlm", {"hidden_dim": None}, "lacks hidden_dim"),
    ("mdlm", {"n_heads": "two"}, "gives 'two' for n_heads"),
    ("mdlm", {"vocab_size": None}, "lacks vocab_size"),
    ("mdlm", {"vocab_size": "9"}, "gives '9' for vocab_size"),
    ("mdlm", {"vocab_size": 12}, "the configuration gives other sizes than the weights have"),
    ("mdlm", {"n_blocks": 3}, "the weights have fewer layers"),
    ("mdlm", {"n_blocks": 1}, "the weights have more layers"),
    ("mdlm", {"n_heads": 4}, "is of heads of 8 channels"),
    ("mdlm", {"hidden_dim": 24}, "other sizes|heads of 8 channels"),
    ("mdlm", {"mask_token_id": V}, "token 9, must be one of its 9 tokens"),
    ("mdlm", {"mask_token_id": -1}, "token -1, must be one"),
    ("mdlm", {"time_conditioning": "no"}, "gives 'no' for time_conditioning"),
    ("run", {"parameterization": "ar"}, "parameterization 'ar'"),
    ("run", {"noise": {"type": "bent"}}, "is 'bent', which is none of"),
    ("run", {"noise": {"type": "geometric"}}, "lacks noise.sigma_min"),
    ("run", {"noise": {"type": "geometric", "sigma_min": 2, "sigma_max": 1}}, "sigma_min=2.0 must"),
    ("run", {"data": {"tokenizer_name_or_path": "mine"}}, "'mine', whose mask is not known"),
    ("run", {"model": {"hidden_size": 16}}, "lacks model.cond_dim"),
    ("sedd", {"tokens": None}, "lacks tokens"),
    ("sedd", {"tokens": "many"}, "gives 'many' for tokens"),
    ("sedd", {"graph": {"type": "ordinal"}}, "graph.type 'ordinal'"),
    ("sedd", {"graph": {"type": "uniform"}, "tokens": V}, "scales by sigma under a uniform graph"),
    ("algo", {"algo": {"name": "ar"}}, "autoregressive"),
    ("algo", {"algo": {"name": "x", "causal_attention": True}}, "autoregressive"),
    ("duo", {"causal": True}, "autoregressive"),
]


@pytest.mark.parametrize(
    ("kind", "changed", "said"), CONFIGURATIONS, ids=lambda each: str(each)[:40]
)
def test_a_wrong_configuration_is_read(kind, changed, said, tmp_path):
    place = small_source(tmp_path, kind, **changed)
    with pytest.raises(ValueError, match=said) as refusal:
        recognise(place)().read(place)
    assert "\n" not in str(refusal.value)


def test_the_command_takes_a_wrong_configuration(tmp_path, capsys):
    for number, (kind, changed, said) in enumerate(CONFIGURATIONS[::8]):
        place = small_source(tmp_path / str(number), kind, **changed)
        assert re.search(said, refused(capsys, tmp_path, place))


def test_weights_that_do_not_fit_are_read(tmp_path, capsys):
    whole = drawn(V, **SMALL)
    missing = {key: value for key, value in whole.items() if "blocks.1." not in key}
    assert "missing are model.layers.*" in refused(
        capsys, tmp_path, small_source(tmp_path / "missing", state=missing)
    )
    more = whole | {"head.weight": torch.ones(2), "extra.0.w": torch.ones(1)}
    assert "unexpected are extra.*.w, head.weight" in refused(
        capsys, tmp_path, small_source(tmp_path / "more", state=more)
    )
    other = {key: value for key, value in whole.items() if "embed" not in key}
    assert "no vocab_embed.embedding" in refused(
        capsys, tmp_path, small_source(tmp_path / "other", state=other)
    )
    bad = whole | {"blocks.0.mlp.0.bias": torch.full((64,), torch.nan)}
    assert "NaN" in refused(capsys, tmp_path, small_source(tmp_path / "nan", state=bad))
    tied = small_source(tmp_path / "tied", tie_word_embeddings=True)
    assert "ties embeddings and head, but its weights are two" in refused(capsys, tmp_path, tied)


@pytest.mark.parametrize("kind", ["mdlm", "sedd"])
def test_damaged_files_are_read(kind, tmp_path, capsys):
    place = small_source(tmp_path / "source", kind)
    file = tmp_path / "source" / "model.safetensors"
    whole = file.read_bytes()
    for cut in (200, len(whole) - 50):
        file.write_bytes(whole[:cut])
        assert "cut or damaged" in refused(capsys, tmp_path, place)
    file.unlink()
    assert "has no weights" in refused(capsys, tmp_path, place)
    (tmp_path / "source" / "config.json").write_text('{"model_type": "mdlm"')
    assert "is no JSON" in refused(capsys, tmp_path, place)


def test_tokenizers_of_another_vocabulary_or_mask_are_taken(tmp_path, capsys):
    place = small_source(tmp_path / "source")
    for size in (V + 1, V - 2, 3):
        other = small_tokenizer(tmp_path / f"of{size}", size)
        said = refused(capsys, tmp_path, place, "--tokenizer", other)
        assert f"has {size} tokens and the network of {place} {V}" in said
    inside = small_tokenizer(tmp_path / "inside", V, mask=3)
    said = refused(capsys, tmp_path, place, "--tokenizer", inside, "--mask-token-id", 5)
    assert "the masks named are: --mask-token-id 5, the tokenizer 3" in said
    named = small_source(tmp_path / "named", mask_token_id=2)
    said = refused(capsys, tmp_path, named, "--tokenizer", inside)
    assert "the configuration 2, the tokenizer 3" in said
    full = small_tokenizer(tmp_path / "full", V)
    said = refused(capsys, tmp_path, place, "--tokenizer", full)
    assert "none for the mask; say which one masks with --mask-token-id" in said
    # SEDD's mask is the last token, whatever a tokenizer says.
    sedd = small_source(tmp_path / "sedd", "sedd", prefix="")
    said = refused(capsys, tmp_path, sedd, "--tokenizer", inside)
    assert "the masks named are" in said
    nowhere = refused(capsys, tmp_path, place, "--tokenizer", tmp_path / "nowhere")
    assert "nowhere" in nowhere


def test_settings_that_contradict_the_source_win(tmp_path, capsys):
    run = small_source(tmp_path / "run", "run")
    said = refused(capsys, tmp_path, run, "--parameterization", "d3pm")
    assert "the parameterization 'subs'" in said
    assert "reads zero" in refused(capsys, tmp_path, run, "--time-input", "sigma")
    assert "'t'" in refused(capsys, tmp_path, run, "--time-input", "t")
    assert "--graph is of sedd" in refused(capsys, tmp_path, run, "--graph", "absorb")
    duo = small_source(tmp_path / "duo", "algo")
    assert "'duo', and --algorithm is 'mdlm'" in refused(
        capsys, tmp_path, duo, "--algorithm", "mdlm"
    )
    assert "no mask token" in refused(capsys, tmp_path, duo, "--mask-token-id", "3")
    sedd = small_source(tmp_path / "sedd", "sedd", prefix="")
    assert "graph.type 'absorb'" in refused(capsys, tmp_path, sedd, "--graph", "uniform")
    assert "its mask" not in refused(capsys, tmp_path, run, "--kind", "sedd")


@pytest.mark.parametrize("kind", ["mdlm", "duo"])
def test_a_folders_own_code_is_run_or_asked_for(kind, tmp_path, monkeypatch):
    code = "raise RuntimeError('this code was run')"
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    auto = {"AutoConfig": "own.Config", "AutoModelForMaskedLM": "own.Model"}
    place = small_source(tmp_path / "source", kind, auto_map=auto)
    (tmp_path / "source" / "own.py").write_text(code)
    small_tokenizer(tmp_path / "source", V - 1)
    assert main(["convert", place, str(tmp_path / "out")]) == 0
    assert not asked
    assert main(["sample", place]) == 2 and not asked
