"""The syntax of RE2's regular expressions, read into a tree.

All that https://github.com/google/re2/wiki/Syntax lists, but for classes of scripts (`\\p{Greek}`)
and `\\C`. Groups only group: what they catch is not told. `\\d`, `\\w`, `\\s` and `\\b` mean ASCII.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

_MOST_REPETITIONS = 1000  # RE2's bound on {n,m}
_LAST = 0x10FFFF
_Ranges = tuple[tuple[int, int], ...]

_CLASSES: dict[str, _Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 10), (12, 13), (32, 32)),
}
_POSIX: dict[str, _Ranges] = {
    "alnum": ((48, 57), (65, 90), (97, 122)),
    "alpha": ((65, 90), (97, 122)),
    "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)),
    "cntrl": ((0, 31), (127, 127)),
    "digit": _CLASSES["d"],
    "graph": ((33, 126),),
    "lower": ((97, 122),),
    "print": ((32, 126),),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)),
    "upper": ((65, 90),),
    "word": _CLASSES["w"],
    "xdigit": ((48, 57), (65, 70), (97, 102)),
}
_OCTAL = frozenset("01234567")
_CONTROLS = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_ASSERTIONS = {"A": "begin", "z": "end", "b": "word edge", "B": "no word edge"}


@dataclass(frozen=True, slots=True)
class Set:
    """Characters: ranges of code points, Unicode categories by prefix, and other sets."""

    ranges: _Ranges = ()
    category: str | None = None
    sets: tuple[Set, ...] = ()
    negated: bool = False
    folded: bool = False  # upper and lower case are alike

    def __contains__(self, char: str) -> bool:
        forms = {char, char.lower(), char.upper()} if self.folded else (char,)
        return any(self._has(c) for c in forms if len(c) == 1) != self.negated

    def _has(self, char: str) -> bool:
        if any(low <= ord(char) <= high for low, high in self.ranges):
            return True
        if self.category is not None and unicodedata.category(char).startswith(self.category):
            return True
        return any(char in inner for inner in self.sets)


@dataclass(frozen=True, slots=True)
class Assertion:
    """What holds between two characters: begin, end, begin or end of a line, edge of a word."""

    kind: str

    def holds(self, last: str, following: str) -> bool:
        """`last` and `following` are the characters around, "" for none."""
        match self.kind:
            case "begin":
                return last == ""
            case "end":
                return following == ""
            case "line begin":
                return last in ("", "\n")
            case "line end":
                return following in ("", "\n")
        return (is_word(last) != is_word(following)) == (self.kind == "word edge")


def is_word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


@dataclass(frozen=True, slots=True)
class Concatenation:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alternation:
    """The options, the preferred one first."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repetition:
    """A part at least and at most so many times (None: any number); as many as possible first if
    it is greedy, else as few."""

    part: Node
    least: int
    most: int | None
    greedy: bool


Node = Set | Assertion | Concatenation | Alternation | Repetition


def parse(expression: str) -> Node:
    """The tree of an expression; ValueError says what is wrong, and where."""
    parser = _Parser(expression)
    tree = parser.alternation()
    if parser.at < len(expression):
        raise parser.error("a ')' that closes nothing")
    return tree


@dataclass
class _Parser:
    text: str
    at: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)

    def error(self, what: str) -> ValueError:
        return ValueError(f"the expression {self.text!r} has {what} at character {self.at}")

    def alternation(self) -> Node:
        """Up to a ')' that is not its own; flags that are set inside end with it."""
        flags = self.flags
        options = [self._concatenation()]
        while self._took("|"):
            options.append(self._concatenation())
        self.flags = flags
        return options[0] if len(options) == 1 else Alternation(tuple(options))

    def _concatenation(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if self._took("\\Q"):
                parts += self._quoted()
            elif self._repeated() is None:
                parts.append(self._atom())
            else:
                raise self.error("nothing to repeat")
            bounds = self._repeated()
            if parts and bounds is not None:
                self.at = bounds[2]
                greedy = ("U" in self.flags) == self._took("?")
                parts[-1] = Repetition(parts[-1], *bounds[:2], greedy)
        return parts[0] if len(parts) == 1 else Concatenation(tuple(parts))

    def _quoted(self) -> list[Node]:
        """What stands up to `\\E`, character by character."""
        end = self.text.find("\\E", self.at)
        end = len(self.text) if end < 0 else end
        quoted = self.text[self.at : end]
        self.at = end + 2
        return [self._char(ord(c)) for c in quoted]

    def _repeated(self) -> tuple[int, int | None, int] | None:
        """(least, most, where it ends) if an operator of repetition is next."""
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        sign = self.text[self.at : self.at + 1]
        if sign in simple:
            return *simple[sign], self.at + 1
        end = self.text.find("}", self.at)
        if sign != "{" or end < 0:
            return None
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if not _is_number(low) or not (high == "" or _is_number(high)):
            return None  # a brace like any other character
        least = int(low)
        most = int(high) if high else None if comma else least
        if max(least, most or 0) > _MOST_REPETITIONS or (most is not None and most < least):
            raise self.error(f"a repetition that is not 0 to {_MOST_REPETITIONS}")
        return least, most, end + 1

    def _atom(self) -> Node:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._bracket()
            case ".":
                return Set(() if "s" in self.flags else ((10, 10),), negated=True)
            case "^":
                return Assertion("line begin" if "m" in self.flags else "begin")
            case "$":
                return Assertion("line end" if "m" in self.flags else "end")
            case "\\":
                return self._escape()
        return self._char(ord(char))

    def _group(self) -> Node:
        flags = self.flags
        if self._took("?"):
            named = self._took("P<") or self._took("<")
            end = self.text.find(">" if named else ":", self.at)
            closed = self.text.find(")", self.at)
            if not named and closed >= 0 and (end < 0 or closed < end):
                self._set_flags(self.text[self.at : closed])
                self.at = closed + 1
                return Concatenation(())
            if end < 0:
                raise self.error("a group without an end")
            name = self.text[self.at : end]
            if not named:
                self._set_flags(name)
            elif not name.isidentifier():
                raise self.error("a group without a name (there is no looking around)")
            self.at = end + 1
        inside = self.alternation()
        self.flags = flags
        if not self._took(")"):
            raise self.error("a '(' that is not closed")
        return inside

    def _set_flags(self, letters: str) -> None:
        on, minus, off = letters.partition("-")
        if not set(on + off) <= set("imsU") or (minus and not off):
            raise self.error(f"the unknown flags '{letters}' (there is no looking around)")
        self.flags = (self.flags | set(on)) - set(off)

    def _char(self, code: int) -> Set:
        return Set(((code, code),), folded="i" in self.flags)

    def _escape(self) -> Node:
        """After a backslash."""
        char = self.text[self.at : self.at + 1]
        if char in _ASSERTIONS:
            self.at += 1
            return Assertion(_ASSERTIONS[char])
        found = self._escaped_set()
        return self._char(self._escaped_code()) if found is None else found

    def _escaped_set(self) -> Set | None:
        """A class of characters, if the letter after a backslash names one."""
        char = self.text[self.at : self.at + 1]
        if char.lower() in _CLASSES and char:
            self.at += 1
            return Set(_CLASSES[char.lower()], negated=char.isupper())
        if char not in ("p", "P"):
            return None
        self.at += 1
        name = self._next()
        if name == "{":
            end = self.text.find("}", self.at)
            name, self.at = self.text[self.at : end], end + 1
        inverse, name = name.startswith("^"), name.removeprefix("^")
        if len(name) > 2 or name[:1] not in "LMNPSZC":
            raise self.error(f"the unknown category '{name}'")
        return Set(category=name, negated=inverse != (char == "P"))

    def _escaped_code(self) -> int:
        char = self._next()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "x":
            if self._took("{"):
                end = self.text.find("}", self.at)
                digits, self.at = self.text[self.at : end], end + 1
            else:
                digits, self.at = self.text[self.at : self.at + 2], self.at + 2
            return self._number(digits, 16)
        if char in _OCTAL and (char == "0" or self.text[self.at : self.at + 1] in _OCTAL):
            start = self.at - 1
            while self.at < start + 3 and self.text[self.at : self.at + 1] in _OCTAL:
                self.at += 1
            return self._number(self.text[start : self.at], 8)
        if char.isalnum() and char.isascii():
            raise self.error(f"the unknown escape '\\{char}' (groups cannot be referred to)")
        return ord(char)

    def _number(self, digits: str, base: int) -> int:
        try:
            code = int(digits, base)
        except ValueError:
            raise self.error(f"'{digits}', which is no number,") from None
        if not 0 <= code <= _LAST:
            raise self.error(f"'{digits}', which is no character,")
        return code

    def _bracket(self) -> Node:
        """After a '['."""
        negated, ranges, sets, first = self._took("^"), [], [], True
        while first or not self._took("]"):
            first = False
            inner = self._bracket_set()
            if inner is not None:
                sets.append(inner)
                continue
            low = high = self._bracket_code()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = self._bracket_code()
            if high < low:
                raise self.error("a range whose end comes before its start")
            ranges.append((low, high))
        return Set(tuple(ranges), None, tuple(sets), negated, "i" in self.flags)

    def _bracket_set(self) -> Set | None:
        """A named class inside of brackets, if one is next."""
        if self._took("[:"):
            end = self.text.find(":]", self.at)
            name, self.at = self.text[self.at : max(end, self.at)], end + 2
            if name.removeprefix("^") not in _POSIX:
                raise self.error(f"the unknown class '{name}'")
            return Set(_POSIX[name.removeprefix("^")], negated=name.startswith("^"))
        if self.text[self.at : self.at + 1] == "\\":
            self.at += 1
            found = self._escaped_set()
            self.at -= found is None
            return found
        return None

    def _bracket_code(self) -> int:
        char = self._next()
        return self._escaped_code() if char == "\\" else ord(char)

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise self.error("no end")
        self.at += 1
        return self.text[self.at - 1]

    def _took(self, prefix: str) -> bool:
        """Step over the prefix if it is next."""
        found = self.text.startswith(prefix, self.at)
        self.at += len(prefix) if found else 0
        return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
