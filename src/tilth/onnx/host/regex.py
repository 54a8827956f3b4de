"""Regular expressions in time linear in the text: RE2's syntax, which ONNX asks for.

An expression becomes a program of a few kinds of instructions that all alternatives run through
side by side, one character at a time (Thompson 1968; the order of threads, which says which match
is preferred, is Pike's: R. Cox, "Regular Expression Matching: the Virtual Machine Approach", 2009).
What the threads do at a character is remembered, so that usual texts cost a look-up per character.
Python's `re` tries alternatives one after the other, for which a hostile expression takes for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from tilth.onnx.host.regex_syntax import (
    Alternation,
    Assertion,
    Concatenation,
    Node,
    Repetition,
    Set,
    is_word,
    parse,
)

_MOST_INSTRUCTIONS = 20_000
_MOST_KNOWN_THREADS = 200_000  # in remembered states


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
_State = tuple[int, ...]  # the instructions where threads wait, the preferred thread first


@functools.lru_cache(maxsize=256)
def compiled(expression: str) -> Pattern:
    """ValueError for what is no expression of RE2, and for one that is too big."""
    pattern = Pattern([])
    pattern.emit(parse(expression))
    pattern.program.append(None)
    return pattern


@dataclass(slots=True)
class Pattern:
    """A program for an expression, and what its threads did at characters seen so far."""

    program: list[_Instruction]
    _emitted: int = 0
    _known: dict[Hashable, tuple[_State, _State]] = field(default_factory=dict)
    _known_threads: int = 0

    def fullmatch(self, text: str) -> bool:
        """Does all of the text match?"""
        state, _ = self._after((), "", _next(text, 0), fresh=True)
        for at, char in enumerate(text, 1):
            state, _ = self._after(state, char, _next(text, at))
            if not state:
                return False
        return len(self.program) - 1 in state

    def finditer(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of the matches that do not overlap, from left to right."""
        begin = 0
        while begin <= len(text) and (found := self._search(text, begin)):
            yield found
            begin = max(found[1], found[0] + 1)

    def _search(self, text: str, begin: int) -> tuple[int, int] | None:
        """The leftmost match from there on; of those that start there, the preferred one."""
        end, found = len(self.program) - 1, None
        state: _State = ()
        starts: list[int] = []
        for at in range(begin, len(text) + 1):
            char = text[at - 1] if at else ""
            state, origins = self._after(state, char, _next(text, at), fresh=not found, cut=True)
            starts = [at if origin < 0 else starts[origin] for origin in origins]
            if state and state[-1] == end:
                found = (starts[-1], at)
            elif found and not state:
                break
        return found

    def _after(
        self, state: _State, char: str, following: str, fresh: bool = False, cut: bool = False
    ) -> tuple[_State, _State]:
        """The state after a character (that was read, "" at the very begin), and from which thread
        each of its threads comes, -1 for a new one.

        `fresh` begins a new thread; `cut` ends those to which a match is preferred.
        """
        key = state, char, following, fresh, cut
        found = self._known.get(key)
        if found is None:
            found = self._advanced(*key)
            self._known_threads += 1 + len(found[0])
            if self._known_threads > _MOST_KNOWN_THREADS:
                self._known.clear()
                self._known_threads = 0
            self._known[key] = found
        return found

    def _advanced(
        self, state: _State, char: str, following: str, fresh: bool, cut: bool
    ) -> tuple[_State, _State]:
        visited: set[int] = set()
        threads: dict[int, int] = {}
        for origin, place in [*enumerate(state), *([(-1, -1)] if fresh else ())]:
            instruction = self.program[place]
            if origin >= 0 and not (isinstance(instruction, _Take) and char in instruction.chars):
                continue
            for reached in self._reached(place + 1, char, following, visited):
                threads[reached] = origin
                if cut and self.program[reached] is None:
                    return tuple(threads), tuple(threads.values())
        return tuple(threads), tuple(threads.values())

    def _reached(self, place: int, char: str, following: str, visited: set[int]) -> Iterator[int]:
        """Where threads that go on from an instruction wait for a character, or match."""
        waiting = [place]
        while waiting:
            place = waiting.pop()
            if place in visited:
                continue
            visited.add(place)
            match self.program[place]:
                case _Fork(targets):
                    waiting += reversed(targets)
                case _Hold(what):
                    waiting += [place + 1] if what.holds(char, following) else []
                case _:
                    yield place

    def emit(self, node: Node) -> None:
        """Append the instructions of a part of an expression."""
        self._emitted += 1
        if max(len(self.program), self._emitted) > _MOST_INSTRUCTIONS:
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


def _next(text: str, at: int) -> str:
    """What assertions know of the next character: a line's end, a letter, another, or none."""
    char = text[at : at + 1]
    return char if char in ("", "\n") else "a" if is_word(char) else " "
