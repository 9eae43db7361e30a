"""Texts, prompts and conversations as rows of tokens, with the special tokens that the tokenizer
puts, so that a model is trained on what it is shown when it generates."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

Row = dict[str, list[int]]

#: The label of a token that is given: no part of a loss. That of transformers.
CONTEXT = -100
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def rows_of(
    data: Iterable[Mapping[str, Any]],
    columns: Iterable[str],
    texts: Texts,
) -> Callable[[], Iterator[Row]]:
    """What makes rows of tokens of a data set, by its columns: `messages`, `prompt` with
    `completion`, or `text`.

    Raises:
        ValueError: for columns of which none of these can be made.
    """
    columns = set(columns)
    if texts.prompts:
        kind = next((name for name in ("prompt", "messages", "text") if name in columns), None)
        if kind is not None:
            read = {"prompt": texts.prompt, "messages": texts.start, "text": texts.prompt}[kind]
            return lambda: ({"input_ids": ids} for row in data if (ids := read(row[kind])))
    elif "messages" in columns:
        return lambda: texts.kept(texts.conversation(row) for row in data)
    elif {"prompt", "completion"} <= columns:
        return lambda: texts.kept(texts.completion(row) for row in data)
    elif "prompt" in columns:
        raise ValueError(
            "A column 'prompt' needs a column 'completion' beside it: only objectives that decode "
            "behind prompts are trained on prompts alone."
        )
    elif "text" in columns:
        return lambda: texts.packed(row["text"] for row in data)
    raise ValueError(
        f"A data set needs a column 'input_ids' or 'text', got: {', '.join(sorted(columns))} "
        "(conversations are in 'messages', or in 'prompt' and 'completion')."
    )


@dataclass(frozen=True)
class Texts:
    """Reads texts with a tokenizer.

    Args:
        tokenizer: puts its special tokens: around each text and each prompt, as when the model is
            asked to go on from one; a chat template puts those of a conversation.
        length: the most tokens of a row; a conversation is cut there.
        prompts: whether rows are what a model goes on from, each by itself; they are not cut.
        assistant_only: of a conversation only what the assistant says is trained on.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int
    prompts: bool = False
    assistant_only: bool = True

    def packed(self, texts: Iterable[str]) -> Iterator[Row]:
        """Documents one after another, cut into rows of `length`; the rest is dropped."""
        rest: list[int] = []
        for text in texts:
            rest += self._ended(self.tokenizer(text)["input_ids"])
            while len(rest) >= self.length:
                yield {"input_ids": rest[: self.length]}
                rest = rest[self.length :]

    def prompt(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """A text, or a conversation in which the assistant is next."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        return self._chat(prompt, add_generation_prompt=True)

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
            return {"input_ids": self._chat(messages, **more)[: self.length]}
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

    def kept(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that have a token to train on; how many are left out is warned of."""
        lost = 0
        for row in rows:
            if all(label == CONTEXT for label in row.get("labels", row["input_ids"])):
                lost += 1
            else:
                yield row
        if lost:
            warnings.warn(
                f"{lost} rows have no token to train on within max_length={self.length} tokens "
                "(their prompts fill them, or the assistant says nothing) and are left out.",
                stacklevel=2,
            )

    def _row(self, ids: list[int], labels: list[int]) -> Row:
        return {"input_ids": ids[: self.length], "labels": labels[: self.length]}

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


def _after(start: list[int], whole: list[int]) -> list[int]:
    """The tokens of a conversation behind its beginning."""
    if whole[: len(start)] != start:
        raise ValueError(
            "The chat template writes the beginning of a conversation differently when it goes on, "
            "so that what the assistant said cannot be told apart; mark it in the template with "
            "{% generation %}, or set assistant_only_loss=False."
        )
    return whole[len(start) :]
