"""Answers of a batch whose rows come and go: what is finished leaves, and the next prompts take its place.

All rows end in the same column: a pass writes one column of the cache for all of them, and padding lies before each. A
cache has spare columns. When these are used up, or enough rows are finished, it is put together anew, of the rows that
go on and of prompts that were read meanwhile. A model whose cache has no keys and values for each token (Mamba) answers
in batches that stay together, by transformers' own `generate`.

A batch has as many rows as `allowed` holds, rows times columns. Where memory ends, that is halved and all rows are
read again, with what they have; later it grows again. Rows that become too long for the others leave likewise, and are
taken up again at the end, beside rows of their length.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from inspect import signature
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from lema.types import UserError

_SPARE = 64  # columns that a cache has for tokens to come
_EXPECTED = 256  # new tokens, for which a row that enters finds room
_READ = 4096  # tokens of prompts in one pass, which bounds its memory
_LEAVE = 8  # one finished row of so many is worth a new cache, which costs about half a pass
_PATIENCE = 500  # passes until more is tried after memory ended


@dataclass(eq=False)
class Row:
    """An answer in the making: its tokens so far, and how it ended ("stop" or "length"), "" until then."""

    prompt: Sequence[int]
    most: int  # tokens that it may have
    seed: int = 0
    stop: str | None = None  # a text that ends it
    tokens: list[int] = field(default_factory=list)
    ended: str = ""

    @property
    def size(self) -> int:
        """Tokens, prompt included."""
        return len(self.prompt) + len(self.tokens)

    def needs(self, ahead: int) -> int:
        """Columns for what it has and at most so many tokens more."""
        return self.size + min(ahead, self.most - len(self.tokens))

    def draw(self) -> float:
        """A number in [0, 1) for its next token, uniform, of the seed and the token's number alone."""
        drawn = sha256(f"{self.seed} {len(self.tokens)}".encode()).digest()
        return (int.from_bytes(drawn[:8], "big") >> 11) / 2**53


def choose(logits: torch.Tensor, rows: Sequence[Row], temperature: float) -> torch.Tensor:
    """The next token of each row, (rows,), by logits (rows, vocabulary): the likeliest, or one of softmax(logits / T).

    A token is drawn where a row's number falls in the cumulated probabilities, so it depends on nothing else.
    """
    if temperature == 0:
        return logits.float().argmax(-1)
    shares = (logits.double() / temperature).softmax(-1).cumsum(-1)
    drawn = torch.tensor([[row.draw()] for row in rows], dtype=torch.float64, device=logits.device)
    return torch.searchsorted(shares, drawn * shares[:, -1:], right=True)[:, 0].clamp(max=logits.shape[1] - 1)


class _Part(NamedTuple):
    """Rows of a cache, or of a layer of one, and how many of its last columns they have."""

    cache: Any
    rows: torch.Tensor
    columns: int


class _Room(DynamicLayer):
    """A layer of a cache with spare columns, in which a pass writes: none of it is copied for a new token."""

    def __init__(self, parts: list[_Part], width: int, spare: int) -> None:
        """Of each part, the layer of another cache, these rows' last columns come to end in column `width`."""
        super().__init__()
        self._rooms = [self._joined(name, parts, width, spare) for name in ("keys", "values")]
        self.dtype, self.device, self.is_initialized = self._rooms[0].dtype, self._rooms[0].device, True
        self._show(width)

    @staticmethod
    def _joined(name: str, parts: list[_Part], width: int, spare: int) -> torch.Tensor:
        first, rows, start = getattr(parts[0].cache, name), sum(len(part.rows) for part in parts), 0
        room = first.new_zeros(rows, first.shape[1], width + spare, first.shape[3])  # padding times 0 must be 0
        for layer, index, columns in parts:
            room[start : start + len(index), :, width - columns : width] = getattr(layer, name)[index, :, -columns:]
            start += len(index)
        return room

    def _show(self, columns: int) -> None:
        self.keys, self.values = (room[:, :, :columns] for room in self._rooms)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None
        before = self.keys.shape[2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, before : before + states.shape[2]] = states
        self._show(before + key_states.shape[2])
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class Answering:
    """Writes answers with a model, as many at once as `allowed` tokens hold. `rows` are those at work."""

    def __init__(
        self,
        model: Any,
        ends: Collection[int],
        allowed: int,
        *,
        temperature: float = 0.0,
        joined: bool = True,
        padded: bool = True,
        decode: Callable[[list[int]], str] = str,
    ) -> None:
        """`joined`: rows come and go. Else batches stay together, and without `padded` each prompt is a batch alone."""
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model  # an adapter stays on it
        self._ends, self._temperature, self._decode = ends, temperature, decode
        self._joined, self._padded = joined, padded
        self._most = self._allowed = allowed
        self.rows: list[Row] = []
        self._whole: list[Row] = []
        self._passes = 0
        self._takes = signature(self._model.forward).parameters
        self._forget()

    @torch.inference_mode()
    def answer(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """After each pass the rows that it made whole. Raises `UserError` when the memory does not hold one row."""
        waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))  # the longest first: too long shows at once
        while waiting or self.rows:
            lacking = None
            try:
                if self._joined:
                    self._pass(waiting)
                else:
                    self._together(waiting)
            except (RuntimeError, MemoryError) as error:
                if not _ran_out(error):
                    raise
                lacking = " ".join(str(error).split())  # the error itself would keep the tensors of its frames
            if lacking is not None:
                self._start_again(waiting, lacking)
            self._passes += 1
            if self._allowed < self._most and self._passes % _PATIENCE == 0:
                self._allowed = min(self._most, self._allowed * 5 // 4 + 1)
            whole, self._whole = self._whole, []
            yield whole

    def _start_again(self, waiting: deque[Row], lacking: str) -> None:
        """Let all rows wait, with what they have, and half as many be at work."""
        going = [row for row in self.rows if not row.ended]
        if len(going) == 1 and self._allowed < going[0].needs(_SPARE):  # it was tried alone before
            raise UserError(f"out of memory with one answer at a time: lower max_new_tokens ({lacking})")
        self._allowed = max(1, min(self._allowed, sum(row.needs(_EXPECTED) for row in going) or self._allowed) // 2)
        self._passes = 0
        waiting.extendleft(going)
        self._forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forget(self) -> None:
        self.rows, self._cache, self._length, self._room = [], None, 0, 0
        self._mask = self._positions = self._last = torch.empty(0)

    def _take(self, chosen: torch.Tensor, rows: Sequence[Row]) -> None:
        """Give each row its next token. A row that is whole takes none."""
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row.ended:
                continue
            row.tokens.append(token)
            if token in self._ends or (row.stop is not None and self._stopped(row, row.stop)):
                row.ended = "stop"
            elif len(row.tokens) >= row.most:
                row.ended = "length"
            if row.ended:
                self._whole.append(row)

    def _stopped(self, row: Row, stop: str) -> bool:
        """Whether the row's text has its stop text: its last tokens tell, each of which has a byte of it at least."""
        return stop in self._decode(row.tokens[-len(stop.encode()) - 2 :]) and stop in self._decode(row.tokens)

    def _pass(self, waiting: deque[Row]) -> None:
        """One more token of each row, after others have left and entered where it was time."""
        finished = sum(bool(row.ended) for row in self.rows)
        if not self.rows or self._length == self._room or finished * _LEAVE >= len(self.rows):
            self._rearrange(waiting)
        if all(row.ended for row in self.rows):
            return
        length = self._length + 1
        logits = self._forward(self._last[:, None], self._mask[:, :length], self._positions[:, None], self._cache)
        self._last, self._length = choose(logits, self.rows, self._temperature), length
        self._positions += 1
        before = len(self._whole)
        self._take(self._last, self.rows)
        if len(self._whole) > before:  # they go on in their place until they leave, as texts that begin
            ended = [number for number, row in enumerate(self.rows) if row.ended]
            self._mask[ended, :length] = 0
            self._positions[ended] = 0

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """The logits after the last token of each row, (rows, vocabulary)."""
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
        given["cache" if "cache" in self._takes else "past_key_values"] = cache
        given |= {"position_ids": positions} if "position_ids" in self._takes else {}
        given |= {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        return self._model(**given).logits[:, -1]

    def _rearrange(self, waiting: deque[Row]) -> None:
        """Let finished rows leave, and those that are too long for the others; let as many enter as there is room."""
        left = [number for number, row in enumerate(self.rows) if not row.ended]
        going = sorted(left, key=lambda number: self.rows[number].size)
        while len(going) > 1 and len(going) * self.rows[going[-1]].needs(_SPARE) > self._allowed:
            waiting.append(self.rows[going.pop()])
        rows = [self.rows[number] for number in going]
        columns, entering = max((row.needs(_SPARE) for row in rows), default=0), list[Row]()
        while waiting:
            columns = max(columns, waiting[0].needs(_EXPECTED))
            if (rows or entering) and (len(rows) + len(entering) + 1) * columns > self._allowed:
                break
            entering.append(waiting.popleft())
        self.rows = rows + entering  # all of them wait again if memory ends here
        if not self.rows:
            return
        parts: list[_Part] = []
        if rows:
            index = torch.tensor(going, device=self._model.device)
            parts.append(_Part(self._cache, index, max(row.size for row in rows) - 1))
        self._cache, last = None, [self._last[going]] if rows else []
        while entering:
            number = max(1, min(len(entering), _READ // entering[0].size))
            reading, entering = entering[:number], entering[number:]
            part, chosen = self._read(reading)
            parts.append(part)
            last.append(chosen)
        self._put_together(parts, torch.cat(last))

    def _read(self, rows: list[Row]) -> tuple[_Part, torch.Tensor]:
        """A cache of what rows have so far, and their next tokens, (rows,).

        What is asked several times is read once.
        """
        texts = [(*row.prompt, *row.tokens) for row in rows]
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        columns, device = max(map(len, texts)), self._model.device
        ids, mask = (torch.zeros(len(distinct), columns, dtype=torch.long) for _ in range(2))
        for text, number in distinct.items():
            ids[number, columns - len(text) :] = torch.tensor(text)
            mask[number, columns - len(text) :] = 1
        index = torch.tensor([distinct[text] for text in texts], device=device)
        positions, cache = (mask.cumsum(-1) - 1).clamp(min=0), DynamicCache()
        logits = self._forward(ids.to(device), mask.to(device), positions.to(device), cache)
        if wrong := [type(each).__name__ for each in cache.layers if type(each) is not DynamicLayer]:
            raise TypeError(f"a cache of {wrong[0]}")
        chosen = choose(logits[index], rows, self._temperature)
        self._take(chosen, rows)
        return _Part(cache, index, columns), chosen

    def _put_together(self, parts: list[_Part], last: torch.Tensor) -> None:
        """The cache of all rows, which end in one column, of the caches of some of them."""
        # Of a row that is whole nothing is read any more, and its last token is not in a cache.
        sizes = [0 if row.ended else row.size - 1 for row in self.rows]
        width, spare = max(part.columns for part in parts), max(min(_SPARE, row.most) for row in self.rows)
        made = DynamicCache()
        for number in range(len(parts[0].cache.layers)):
            made.layers.append(_Room([part._replace(cache=part.cache.layers[number]) for part in parts], width, spare))
            for part in parts:
                part.cache.layers[number] = None
        device = self._model.device
        self._positions, self._last = torch.tensor(sizes, device=device), last
        self._mask = (torch.arange(width + spare, device=device) >= width - self._positions[:, None]).long()
        self._cache, self._length, self._room = made, width, width + spare

    def _together(self, waiting: deque[Row]) -> None:
        """Answer the next prompts by `generate`, in a batch that stays together."""
        self.rows, columns = [], max(row.needs(row.most) for row in waiting)
        while waiting and (not self.rows or (self._padded and (len(self.rows) + 1) * columns <= self._allowed)):
            self.rows.append(waiting.popleft())
        rows, width, device = self.rows, max(row.size for row in self.rows), self._model.device

        def alone(_: Any, scores: Any) -> Any:
            """Leaves the chosen token of each row alone, where greedy search then finds it."""
            chosen = choose(scores, rows, self._temperature)
            return torch.full_like(scores, -math.inf).scatter_(1, chosen[:, None], 0.0)

        def taken(ids: Any, *_: Any, **__: Any) -> Any:
            """Gives the rows their tokens as they come, and says which rows are whole."""
            self._take(ids[:, -1], rows)
            return torch.tensor([bool(row.ended) for row in rows], device=device)

        ids = torch.tensor([[0] * (width - row.size) + [*row.prompt, *row.tokens] for row in rows])
        mask = torch.tensor([[0] * (width - row.size) + [1] * row.size for row in rows])
        options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        options |= {"max_new_tokens": max(row.most - len(row.tokens) for row in rows)}
        options |= {"logits_processor": LogitsProcessorList([alone])}
        options |= {"stopping_criteria": StoppingCriteriaList([taken])}
        self._model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), **options)
        self.rows = []


def _ran_out(error: BaseException) -> bool:
    """Whether memory ended: a GPU's, or a CPU's, whose allocator has no kind of error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
