"""Texts, prompts and conversations as rows: special tokens, what is context, what is a prompt."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_ddistill.training.data import TokenCollator
from hf_ddistill.training.preparation import prepared

WORDS = ["<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>", *"abcdefgh"]
SAID = "{{ m['content'] }} </s>"
TURNS = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' %}SAID"
    "{% else %}{{ m['content'] }}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
MARKED = TURNS.replace("SAID", "{% generation %}" + SAID + "{% endgeneration %}")
PLAIN = TURNS.replace("SAID", SAID)
#: Says something of earlier turns only while they are the last, as some templates do.
REWRITING = TURNS.replace("SAID", "{% if loop.last %}h {% endif %}" + SAID)
CHAT = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c d"},
    {"role": "user", "content": "e"},
    {"role": "assistant", "content": "f"},
]
READ = "<user> a b <assistant> c d </s> <user> e <assistant> f </s>"
#: 1 where the assistant speaks.
SPOKEN = [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]


def tokenizer(template=None, ends=False):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    form = "<s> $A </s>" if ends else "<s> $A"
    special = [("<s>", 0), ("</s>", 1)]
    inner.post_processor = processors.TemplateProcessing(single=form, special_tokens=special)
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    found.chat_template = template
    return found


def ids(text):
    return [WORDS.index(word) for word in text.split()]


def context(text, trained):
    """The labels of a text, given which of its tokens are trained."""
    return [i if kept else -100 for i, kept in zip(ids(text), trained, strict=True)]


def rows(data, length=64, *, template=None, **more):
    return list(prepared(data, tokenizer(template), length, **more))


@pytest.mark.parametrize("template", [MARKED, PLAIN], ids=["marked", "plain"])
@pytest.mark.parametrize("streamed", [False, True])
def test_only_what_the_assistant_says_is_trained_on(template, streamed):
    data = Dataset.from_list([{"messages": CHAT}])
    data = data.to_iterable_dataset() if streamed else data
    (row,) = rows(data, template=template)
    assert row == {"input_ids": ids(READ), "labels": context(READ, SPOKEN)}


def test_all_of_a_conversation_is_trained_on_if_asked_for():
    (row,) = rows([{"messages": CHAT}], template=PLAIN, assistant_only=False)
    assert row == {"input_ids": ids(READ)}


@pytest.mark.parametrize(
    ("template", "message"),
    [(REWRITING, "mark it in the template with"), (None, "need a chat template")],
)
def test_a_template_that_cannot_tell_who_speaks_is_refused(template, message):
    with pytest.raises(ValueError, match=message) as refusal:
        rows([{"messages": CHAT}], template=template)
    assert "\n" not in str(refusal.value)


def test_a_prompt_is_the_context_of_its_completion():
    (row,) = rows([{"prompt": "a b", "completion": "c d"}])
    text = "<s> a b c d </s>"
    assert row == {"input_ids": ids(text), "labels": context(text, [0, 0, 0, 1, 1, 1])}
    turns = [{"prompt": CHAT[:3], "completion": CHAT[3:]}]
    (row,) = rows(turns, template=PLAIN)
    assert row == {"input_ids": ids(READ), "labels": context(READ, [0] * 10 + [1, 1])}


def test_rows_are_cut_and_those_of_which_only_context_is_left_are_told():
    data = [{"prompt": "a b", "completion": "c d"}, {"prompt": "a b c d", "completion": "e"}]
    with pytest.warns(UserWarning, match="1 rows have no token to train on within max_length=5"):
        (row,) = rows(data, 5)
    assert row["input_ids"] == ids("<s> a b c d")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="No row has a token to train"):
        rows(data, 3)


def test_documents_begin_and_end_as_the_tokenizer_has_it():
    data = [{"text": "a b"}, {"text": "c"}]
    for ends in (False, True):
        found = prepared(data, tokenizer(ends=ends), 7)
        assert found["input_ids"][:] == [ids("<s> a b </s> <s> c </s>")]


def test_prompts_stay_prompts():
    """Each by itself, with its beginning token, whole, and up to what the assistant would say."""
    texts = [{"text": "a"}, {"text": "b c d e f"}]
    assert rows(texts, 4, prompts=True) == [
        {"input_ids": ids("<s> a")},
        {"input_ids": ids("<s> b c d e f")},
    ]
    data = [{"prompt": "a", "completion": "b"}, {"prompt": "b c", "completion": "d"}]
    assert [row["input_ids"] for row in rows(data, prompts=True)] == [ids("<s> a"), ids("<s> b c")]
    started = ids("<user> a b <assistant> c d </s> <user> e <assistant>")
    for messages in (CHAT, CHAT[:3]):
        (row,) = rows([{"messages": messages}], template=PLAIN, prompts=True)
        assert row["input_ids"] == started
    (row,) = rows([{"prompt": CHAT[:3]}], template=PLAIN, prompts=True)
    assert row["input_ids"] == started


def test_prompts_alone_are_no_data():
    with pytest.raises(ValueError, match="'prompt' needs a column 'completion'"):
        rows([{"prompt": "a"}])


def test_context_comes_as_labels_or_as_the_masks_of_trl():
    collator = TokenCollator(pad_token_id=0, multiple=4)
    plain = {"input_ids": [5, 6, 7]}
    for marked in (
        {"labels": [-100, 6, 7]},
        {"completion_mask": [0, 1, 1]},
        {"assistant_masks": torch.tensor([0, 1, 1])},
        {"labels": [-100, 6, 7], "completion_mask": [1, 1, 1]},
    ):
        batch = collator([plain | marked, plain])
        assert batch["labels"].tolist() == [[-100, 6, 7, -100], [5, 6, 7, -100]]
        assert batch["input_ids"].tolist() == [[5, 6, 7, 0]] * 2
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0]] * 2
    assert "labels" not in collator([plain | {"labels": [5, 6, 7]}])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labels": [5, 9, 7]}, r"labels\[1\] is 9 where input_ids has 6"),
        ({"labels": 3}, "labels have 1 entries and input_ids 3: one for each token"),
        ({"completion_mask": [1, 1]}, "completion_mask has 2 entries and input_ids 3"),
    ],
)
def test_labels_that_are_no_mark_of_context_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        TokenCollator()([{"input_ids": [5, 6, 7], **more}])


def test_blocks_without_a_pad_token_are_told():
    with pytest.raises(ValueError, match="in whole blocks of 4, and there is no pad token"):
        TokenCollator(multiple=4)([{"input_ids": [5, 6, 7]}])


@pytest.mark.parametrize("streamed", [False, True])
def test_texts_are_not_laid_into_one_row_where_each_is_a_row(streamed):
    """A protein that begins in the middle of a row, behind another's end, is none that a protein
    language model has seen; nor is a long text lost behind max_length, or an empty one a row."""
    data = Dataset.from_list([{"text": "a b"}, {"text": ""}, {"text": "c d e f g"}])
    data = data.to_iterable_dataset() if streamed else data
    found = list(prepared(data, tokenizer(ends=True), 4, packing=False))
    expected = ["<s> a b </s>", "<s> c d </s>", "<s> e f </s>", "<s> g </s>"]
    assert [row["input_ids"] for row in found] == [ids(text) for text in expected]
    with pytest.raises(ValueError, match="max_length=2 leaves no place for a text"):
        list(prepared(data, tokenizer(ends=True), 2, packing=False))
    with pytest.raises(ValueError, match="The texts are all empty"):
        prepared([{"text": ""}], tokenizer(ends=True), 4, packing=False)
