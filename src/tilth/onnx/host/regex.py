"""Regular expressions in time linear in the text: RE2's syntax, which ONNX asks for.

An expression becomes a program of a few kinds of instructions that all alternatives run through
side by side, one character at a time (Thompson 1968; the order of threads, which says which match
is preferred, is Pike's: R. Cox, "Regular Expression Matching: the Virtual Machine Approach", 2009).
Python's `re` tries alternatives one after the other, for which a hostile expression takes for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from tilth.onnx.host.regex_syntax import (
    Alternation,
    Assertion,
    Concatenation,
    Node,
    Repetition,
    Set,
    parse,
)

_MOST_INSTRUCTIONS = 20_000


@dataclass(frozen=True, slots=True)
class _Take:
    """Go on with the next instruction if the next character is in the set."""

    chars: Set


@dataclass(frozen=True, slots=True)
class _Hold:
    """Go on if this holds between the last character and the next."""

    what: Assertion


@dataclass(slots=True)
class _Fork:
    """Go on at several places, the preferred one first."""

    targets: list[int]


_Instruction = _Take | _Hold | _Fork | None  # None: the end, a match
_Threads = dict[int, int]  # instruction -> where its match began; the preferred ones first


@functools.lru_cache(maxsize=256)
def compiled(expression: str) -> Pattern:
    """ValueError for what is no expression of RE2, and for one that is too big."""
    pattern = Pattern([])
    pattern.emit(parse(expression))
    pattern.program.append(None)
    return pattern


@dataclass(slots=True)
class Pattern:
    """A program for an expression."""

    program: list[_Instruction]
    _steps: int = field(default=0)

    def fullmatch(self, text: str) -> bool:
        """Does all of the text match?"""
        threads = self._followed(0, 0, text, 0)
        for at, char in enumerate(text):
            threads = self._after(threads, char, at, text)
            if not threads:
                return False
        return len(self.program) - 1 in threads

    def finditer(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of the matches that do not overlap, from left to right."""
        begin = 0
        while begin <= len(text) and (found := self._search(text, begin)):
            yield found
            begin = max(found[1], found[0] + 1)

    def _search(self, text: str, begin: int) -> tuple[int, int] | None:
        """The leftmost match from there on; of those that start there, the preferred one."""
        end, found = len(self.program) - 1, None
        threads: _Threads = {}
        for at in range(begin, len(text) + 1):
            if found is None:
                threads = self._followed(0, at, text, at, threads)
            elif not threads:
                break
            if end in threads:
                found = (threads[end], at)
                threads = _before(threads, end)
            if at < len(text):
                threads = self._after(threads, text[at], at, text)
        return found

    def _after(self, threads: _Threads, char: str, at: int, text: str) -> _Threads:
        """The threads that take the character."""
        result: _Threads = {}
        for place, start in threads.items():
            instruction = self.program[place]
            if isinstance(instruction, _Take) and char in instruction.chars:
                self._followed(place + 1, start, text, at + 1, result)
        return result

    def _followed(
        self, place: int, start: int, text: str, at: int, into: _Threads | None = None
    ) -> _Threads:
        """`into` with the threads that are reached from an instruction without a character."""
        into = {} if into is None else into
        waiting = [place]
        while waiting:
            place = waiting.pop()
            if place in into:
                continue
            into[place] = start
            match self.program[place]:
                case _Fork(targets):
                    waiting += reversed(targets)
                case _Hold(what) if what.holds(text, at):
                    waiting.append(place + 1)
        return into

    def emit(self, node: Node) -> None:
        """Append the instructions of a part of an expression."""
        self._steps += 1
        if max(len(self.program), self._steps) > _MOST_INSTRUCTIONS:
            raise ValueError(f"the expression has more than {_MOST_INSTRUCTIONS} steps")
        match node:
            case Set():
                self.program.append(_Take(node))
            case Assertion():
                self.program.append(_Hold(node))
            case Concatenation(parts):
                for part in parts:
                    self.emit(part)
            case Alternation(options):
                self._emit_alternatives(options)
            case Repetition(part, least, most, greedy):
                for _ in range(least):
                    self.emit(part)
                if most is None:
                    self._emit_star(part, greedy)
                else:
                    self._emit_optional(part, most - least, greedy)

    def _fork(self) -> _Fork:
        made = _Fork([])
        self.program.append(made)
        return made

    def _emit_alternatives(self, options: tuple[Node, ...]) -> None:
        fork, ends = self._fork(), []
        for option in options:
            fork.targets.append(len(self.program))
            self.emit(option)
            ends.append(self._fork())
        for end in ends:
            end.targets.append(len(self.program))

    def _emit_star(self, part: Node, greedy: bool) -> None:
        again, fork = len(self.program), self._fork()
        self.emit(part)
        self._fork().targets.append(again)
        fork.targets += _ordered(again + 1, len(self.program), greedy)

    def _emit_optional(self, part: Node, times: int, greedy: bool) -> None:
        forks = []
        for _ in range(times):
            forks.append((self._fork(), len(self.program)))
            self.emit(part)
        for fork, inside in forks:
            fork.targets += _ordered(inside, len(self.program), greedy)


def _ordered(inside: int, past: int, greedy: bool) -> tuple[int, int]:
    return (inside, past) if greedy else (past, inside)


def _before(threads: _Threads, place: int) -> _Threads:
    """The threads that are preferred to one."""
    kept: _Threads = {}
    for key, start in threads.items():
        if key == place:
            break
        kept[key] = start
    return kept
