"""Texts, prompts and conversations as rows of tokens, with the special tokens that the tokenizer
puts, so that a model is trained on what it is shown when it generates.

Tokens are int32: four bytes each, where a list of Python's integers takes forty.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hf_ddistill.models.held import around_a_text

Ids = NDArray[np.int32]
Row = dict[str, Ids]
#: The rows that one row of the data gives; it may keep tokens back for the next one's.
Reader = Callable[[Mapping[str, Any]], list[Row]]

#: The label of a token that is given: no part of a loss. That of transformers.
CONTEXT = -100
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Packing:
    """Documents one after another, cut into rows of `length`; at the cost of copying each token
    once or twice, however long a document is."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._pieces: list[Ids] = []
        self._kept = 0

    def add(self, ids: Sequence[int]) -> list[Ids]:
        """The rows that are full with this document."""
        self._pieces.append(np.asarray(ids, dtype=np.int32))
        self._kept += len(ids)
        if self._kept < self.length:
            return []
        stream, self._kept = np.concatenate(self._pieces), self._kept % self.length
        whole = len(stream) - self._kept
        # Of its own: it must not keep what is in rows already.
        self._pieces = [stream[whole:].copy()]
        return list(stream[:whole].reshape(-1, self.length))


@dataclass(frozen=True)
class Texts:
    """Reads texts with a tokenizer.

    Args:
        tokenizer: puts its special tokens: around each text and each prompt, as when the model is
            asked to go on from one; a chat template puts those of a conversation.
        length: the most tokens of a row; a conversation is cut there.
        prompts: whether rows are what a model goes on from, each by itself; they are not cut.
        assistant_only: of a conversation only what the assistant says is trained on.
        packing: whether texts stand one after another in rows of `length`; else each is a row of
            its own between the tokenizer's special tokens, or several where it is longer.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    prompts: bool = False
    assistant_only: bool = True
    packing: bool = True

    def kind(self, columns: Iterable[str]) -> str:
        """What rows are made of, by the columns of a data set: "prompts" of one of them,
        "messages", "completion" or "text".

        Raises:
            ValueError: for columns of which none of these can be made.
        """
        columns = set(columns)
        if self.prompts and columns & {"prompt", "messages", "text"}:
            return "prompts"
        if not self.prompts and "messages" in columns:
            return "messages"
        if not self.prompts and {"prompt", "completion"} <= columns:
            return "completion"
        if not self.prompts and "prompt" in columns:
            raise ValueError(
                "A column 'prompt' needs a column 'completion' beside it: only objectives that "
                "decode behind prompts are trained on prompts alone."
            )
        if not self.prompts and "text" in columns:
            return "text"
        raise ValueError(
            f"A data set needs a column 'input_ids' or 'text', got: {', '.join(sorted(columns))} "
            "(conversations are in 'messages', or in 'prompt' and 'completion')."
        )

    def reader(self, kind: str) -> Reader:
        """What reads the rows of a data set of a kind, from the first one on."""
        if kind == "text" and not self.packing:
            return self.alone
        if kind == "text":
            packing = Packing(self.length)
            return lambda row: [{"input_ids": ids} for ids in packing.add(self.document(row))]
        if kind == "prompts":
            return lambda row: [{"input_ids": _ids(ids)} for ids in [self.given(row)] if ids]
        read = {"messages": self.conversation, "completion": self.completion}[kind]
        return lambda row: _trained(read(row))

    def columns(self, kind: str) -> tuple[str, ...]:
        """Those of its rows."""
        marked = kind == "completion" or (kind == "messages" and self.assistant_only)
        return ("input_ids", "labels") if marked else ("input_ids",)

    def document(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens of a text, ended."""
        return self._ended(self.tokenizer(row["text"])["input_ids"])

    def alone(self, row: Mapping[str, Any]) -> list[Row]:
        """The rows of a text by itself, each as the tokenizer puts a text; none of an empty one.

        Raises:
            ValueError: if the special tokens alone fill a row.
        """
        begin, end = around_a_text(self.tokenizer)
        ids = self.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        room = self.length - len(begin) - len(end)
        if room < 1:
            raise ValueError(
                f"max_length={self.length} leaves no place for a text: the tokenizer puts "
                f"{len(begin) + len(end)} tokens around each."
            )
        parts = [ids[i : i + room] for i in range(0, len(ids), room)]
        return [{"input_ids": _ids([*begin, *part, *end])} for part in parts]

    def prompt(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """A text, or a conversation in which the assistant is next."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        return self._chat(prompt, add_generation_prompt=True)

    def given(self, row: Mapping[str, Any]) -> list[int]:
        """What a model goes on from: a prompt, a conversation up to the assistant's last word, or
        a text."""
        if "prompt" in row:
            return self.prompt(row["prompt"])
        return self.start(row["messages"]) if "messages" in row else self.prompt(row["text"])

    def start(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation up to what the assistant said last."""
        said = messages[-1]["role"] == "assistant" if len(messages) else False
        return self.prompt(messages[:-1] if said else messages)

    def completion(self, row: Mapping[str, Any]) -> Row:
        """A prompt, which is context, and what is trained on behind it."""
        prompt, completion = row["prompt"], row["completion"]
        given = self.prompt(prompt)
        if isinstance(prompt, str):
            behind = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
            behind = self._ended(behind)
        else:
            whole = self._chat([*prompt, *completion])
            behind = _after(given, whole)
        return self._row(given + behind, [CONTEXT] * len(given) + behind)

    def conversation(self, row: Mapping[str, Any]) -> Row:
        """All messages; those of others than the assistant are context."""
        messages, more = row["messages"], {"tools": row.get("tools")}
        if not self.assistant_only:
            return {"input_ids": _ids(self._chat(messages, **more)[: self.length])}
        if _GENERATION.search(self._template()):
            more |= {"return_dict": True, "return_assistant_tokens_mask": True}
            read = self.tokenizer.apply_chat_template(messages, tokenize=True, **more)
            ids, said = read["input_ids"], read["assistant_masks"]
        else:
            ids, said = self._chat(messages, **more), []
            for number, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                before = messages[:number]
                given = self._chat(before, add_generation_prompt=True, **more) if before else []
                done = self._chat(messages[: number + 1], **more)
                said += [0] * (len(given) - len(said)) + [1] * len(_after(given, done))
                _after(done, ids)
            said += [0] * (len(ids) - len(said))
        return self._row(ids, [i if s else CONTEXT for i, s in zip(ids, said, strict=True)])

    def tell_lost(self, kind: str, lost: int) -> None:
        """Warn of rows that are left out, if there are any and they were to be trained on."""
        if lost and kind in ("messages", "completion"):
            warnings.warn(
                f"{lost} rows have no token to train on within max_length={self.length} tokens "
                "(their prompts fill them, or the assistant says nothing) and are left out.",
                stacklevel=2,
            )

    def _row(self, ids: list[int], labels: list[int]) -> Row:
        return {"input_ids": _ids(ids[: self.length]), "labels": _ids(labels[: self.length])}

    def _ended(self, ids: list[int]) -> list[int]:
        """With the end token, where there is one and the tokenizer has not put it."""
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _template(self) -> str:
        template = getattr(self.tokenizer, "chat_template", None)
        if template is None:
            raise ValueError(
                "Conversations need a chat template, which the tokenizer has not; set "
                "tokenizer.chat_template, or give columns 'prompt' and 'completion' of text."
            )
        return str(template)

    def _chat(self, messages: list[dict[str, str]], **more: Any) -> list[int]:
        self._template()
        read = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **more)
        return read["input_ids"]


def _ids(tokens: Sequence[int]) -> Ids:
    return np.asarray(tokens, dtype=np.int32)


def _trained(row: Row) -> list[Row]:
    """The row, unless it has no token to train on."""
    return [row] if (row.get("labels", row["input_ids"]) != CONTEXT).any() else []


def _after(start: list[int], whole: list[int]) -> list[int]:
    """The tokens of a conversation behind its beginning."""
    if whole[: len(start)] != start:
        raise ValueError(
            "The chat template writes the beginning of a conversation differently when it goes on, "
            "so that what the assistant said cannot be told apart; mark it in the template with "
            "{% generation %}, or set assistant_only_loss=False."
        )
    return whole[len(start) :]
