"""From relocatable objects to callable code, where their form is simple without LLVM.

What LLVM emits for kernels is code, constants, and calls of a few functions of the C library.
Placing that takes a millisecond, loading LLVM thirty, and a process that finds its models in the
cache needs LLVM for nothing else. LLVM places objects of other forms, and for other machines.

Source: System V Application Binary Interface, AMD64 Architecture Processor Supplement, chapter 4.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tilth.runtime.memory import aligned

_HEADER = struct.Struct("<4sB11xHH20xQ10xHHH")  # magic, class, type, machine, sections: where, size
_SECTION = struct.Struct("<4xIQ8xQQIIQ8x")
_SYMBOL = struct.Struct("<IBxHQ8x")
_RELOCATION = struct.Struct("<QIIq")

_MAGIC, _64_BITS, _OBJECT, _X86_64 = b"\x7fELF", 2, 1, 62
_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 4, 8  # kinds of sections
_WRITABLE, _ALLOCATED, _EXECUTABLE, _THREAD_LOCAL = 1, 2, 4, 0x400  # flags of sections
_UNDEFINED = 0  # the section of a symbol that is somewhere else
_ABSOLUTE_64, _RELATIVE_32, _CALL_32 = 1, 2, 4  # kinds of relocations
_THROUGH_TABLE_32 = (9, 41, 42)  # ... relative to where an address is kept

# A stub: a jump to the address kept after it. Calls may be too far away for their four bytes.
_JUMP = b"\xff\x25\x00\x00\x00\x00"
_STUB = struct.Struct("<6sQ2x")


class UnfamiliarError(Exception):
    """The object is not of the simple form; the message says what is not."""


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    flags: int
    offset: int
    size: int
    link: int  # of symbols: the section of their names
    info: int  # of relocations: the section that they change
    alignment: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    section: int
    value: int  # offset in its section
    is_exported: bool


class LoadedCode:
    """Objects linked into this process, each of which may call functions of those before it;
    `address(name)` of the exported functions that `symbols` names."""

    def __init__(self, objects: Sequence[bytes], symbols: tuple[str, ...]):
        self._owner: Any  # of the memory
        try:
            found: dict[str, int] = {}
            self._owner = linked = []
            for code in objects:
                linked.append(LinkedElf(code, found))
                found |= linked[-1].addresses
            self._addresses = {symbol: found[symbol] for symbol in symbols}
        except (UnfamiliarError, OSError):
            from tilth.cpu.jit import linked_by_llvm

            self._owner, self._addresses = linked_by_llvm(objects, symbols)

    def address(self, symbol: str) -> int:
        return self._addresses[symbol]


class LinkedElf:
    """An object for x86-64 in memory of its own, which can be written no more, or not be run.

    It may call functions that are `known` by their addresses, and those of this process.
    `addresses` are those of its exported functions by name. Raises UnfamiliarError, OSError.
    """

    def __init__(self, code: bytes, known: Mapping[str, int] = MappingProxyType({})):
        self._code, self._known = code, known
        self._sections = _sections(code)
        self._symbols = self._read_symbols()
        self._places: dict[int, int] = {}  # of sections, in the memory
        self._stubs: dict[str, int] = {}
        executable = self._place_code()
        size = self._place_sections(executable, flags=_ALLOCATED)
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._fill()
        _protect(self._base, executable, mmap.PROT_READ | mmap.PROT_EXEC)
        _protect(self._base + executable, size - executable, mmap.PROT_READ)
        self.addresses = {
            s.name: self._base + self._places[s.section] + s.value
            for s in self._symbols
            if s.is_exported and s.section in self._places
        }

    def _read_symbols(self) -> list[_Symbol]:
        (table,) = (s for s in self._sections if s.kind == _SYMBOLS)
        names = self._contents(self._sections[table.link])
        return [
            _Symbol(
                names[name : names.index(b"\0", name)].decode(), section, value, bool(info >> 4)
            )
            for name, info, section, value in _SYMBOL.iter_unpack(self._contents(table))
        ]

    def _place_code(self) -> int:
        """Give executable sections and stubs their places; how many bytes of pages they take."""
        end = self._place_sections(0, flags=_ALLOCATED | _EXECUTABLE)
        for symbol in self._symbols:
            if symbol.section == _UNDEFINED and symbol.name:
                self._stubs[symbol.name] = end
                end += _STUB.size
        return aligned(end, mmap.PAGESIZE)

    def _place_sections(self, end: int, flags: int) -> int:
        """Give the sections of these flags their places, from `end` on; where they end."""
        for i, section in enumerate(self._sections):
            if section.flags & (_ALLOCATED | _EXECUTABLE) == flags:
                self._places[i] = aligned(end, max(1, section.alignment))
                end = self._places[i] + section.size
        return aligned(end)

    def _contents(self, section: _Section) -> bytes:
        return self._code[section.offset : section.offset + section.size]

    def _fill(self) -> None:
        for i, place in self._places.items():
            section = self._sections[i]
            self._memory[place : place + section.size] = self._contents(section)
        for name, place in self._stubs.items():
            address = self._known.get(name) or _address_of(name)
            _STUB.pack_into(self._memory, place, _JUMP, address)
        for section in self._sections:
            if section.kind == _RELOCATIONS and section.info in self._places:
                for relocation in _RELOCATION.iter_unpack(self._contents(section)):
                    self._relocate(self._places[section.info], *relocation)

    def _relocate(self, start: int, offset: int, kind: int, symbol: int, addend: int) -> None:
        place, target = start + offset, self._symbols[symbol]
        if kind in _THROUGH_TABLE_32 and target.section == _UNDEFINED:
            found = self._stubs[target.name] + len(_JUMP)
        elif kind == _CALL_32 and target.section == _UNDEFINED:
            found = self._stubs[target.name]
        elif kind in (_ABSOLUTE_64, _RELATIVE_32, _CALL_32) and target.section in self._places:
            found = self._places[target.section] + target.value
        else:
            raise UnfamiliarError(f"a relocation of kind {kind} to '{target.name}'")
        if kind == _ABSOLUTE_64:
            struct.pack_into("<Q", self._memory, place, self._base + found + addend)
        else:
            struct.pack_into("<i", self._memory, place, found + addend - place)


def _sections(code: bytes) -> list[_Section]:
    if len(code) < _HEADER.size or sys.platform != "linux":
        raise UnfamiliarError("no ELF object, or not on Linux")
    magic, bits, kind, machine, where, size, count, _ = _HEADER.unpack_from(code)
    if (magic, bits, kind, machine, size) != (_MAGIC, _64_BITS, _OBJECT, _X86_64, _SECTION.size):
        raise UnfamiliarError("no ELF object for x86-64")
    found = [_Section(*_SECTION.unpack_from(code, where + size * i)) for i in range(count)]
    for section in found:
        if section.flags & _ALLOCATED and (
            section.flags & (_WRITABLE | _THREAD_LOCAL) or section.kind == _NO_BITS
        ):
            raise UnfamiliarError("data that can be written")
    return found


def _address_of(name: str) -> int:
    """Of a function in this process."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        raise UnfamiliarError(f"no '{name}' in this process") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _protect(address: int, size: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if size and libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise OSError(ctypes.get_errno(), "cannot protect the memory of code")
