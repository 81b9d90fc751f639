"""PTX text to kernels: parameters, registers, instructions, labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2}
ROUNDING = {"rn", "rz", "rm", "rp"}
CONTROL = {"bra", "brx", "ret", "exit", "bar", "barrier"}  # after which lanes may part or wait
SIZES |= {f"{kind}32": 4 for kind in "busf"} | {f"{kind}64": 8 for kind in "busf"}


class Unsupported(Exception):  # noqa: N818
    """A feature of PTX that the interpreter does not know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: `@guard opcode operands;`."""

    guard: str | None
    negated: bool
    operands: tuple[str, ...]
    text: str
    opcode: str
    parts: tuple[str, ...]  # the opcode, split at its dots
    name: str
    type: str
    is_control: bool
    rounding: str


@cache
def _opcode(text: str) -> tuple[str, tuple[str, ...], str, str, bool, str]:
    """What all instructions of an opcode have in common."""
    text = text.replace("::", "_")
    parts = tuple(text.split("."))
    rounding = next((part for part in parts if part in ROUNDING), "rn")
    return text, parts, parts[0], parts[-1], parts[0] in CONTROL, rounding


@dataclass
class Kernel:
    """An .entry."""

    name: str
    parameters: list[tuple[str, int, int]]  # name, offset, bytes
    registers: dict[str, str] = field(default_factory=dict)  # name -> type
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)  # .branchtargets
    max_threads: int = 1024
    shared: str = ""  # the name of the dynamic shared array
    local: str = ""  # the name of the threads' own array in local memory, and its bytes
    local_bytes: int = 0


def split_operands(text: str) -> list[str]:
    """Split at the commas that no bracket encloses."""
    enclosed = "{" in text or "(" in text
    parts = re.split(r",(?![^{\[(]*[}\])])", text) if enclosed else text.split(",")
    return [part.strip() for part in parts if part.strip()]


def _parameters(text: str) -> list[tuple[str, int, int]]:
    found, offset = [], 0
    for declaration in split_operands(text):
        match = re.fullmatch(
            r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)*?"
            r"(?:\.align\s+\d+\s+)?)?(\w+)(?:\[(\d+)\])?",
            declaration,
        )
        if not match:
            raise Unsupported(declaration)
        size = SIZES[match[2]] * int(match[4] or 1)
        align = int(match[1] or SIZES[match[2]])
        offset = -(-offset // align) * align
        found.append((match[3], offset, size))
        offset += size
    return found


def _statements(body: str) -> list[str]:
    """Split a body at its semicolons, labels ending in a colon; braces may open scopes."""
    found, start, depth = [], 0, 0
    for mark in re.finditer(r"[{}\[\]();:]", body):
        char, current = mark[0], body[start : mark.start()].strip()
        if char in "{}" and not current and (char == "{" or depth == 0):
            start = mark.end()
        elif char == ";" or (char == ":" and re.fullmatch(r"\$?[\w$]+", current)):
            found.append(current + (":" if char == ":" else ""))
            start = mark.end()
        else:
            depth += (char in "{[(") - (char in "}])")
    return found


def _declare(kernel: Kernel, statement: str) -> None:
    match = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.S)
    if match:
        for name in split_operands(match[2]):
            if many := re.fullmatch(r"(%?[\w$]+)<(\d+)>", name):
                kernel.registers |= {f"{many[1]}{i}": match[1] for i in range(int(many[2]))}
            else:
                kernel.registers[name] = match[1]
    elif local := re.match(r"\.local\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]", statement):
        kernel.local, kernel.local_bytes = local[1], int(local[2])
    elif not re.match(r"\.(loc|pragma|file)\b", statement):
        raise Unsupported(statement)


STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", re.S)


def _read_body(kernel: Kernel, body: str) -> None:
    label = ""
    for statement in _statements(body):
        if statement.endswith(":"):
            label = statement[:-1]
            kernel.labels[label] = len(kernel.instructions)
        elif statement.startswith(".branchtargets"):
            kernel.tables[label] = split_operands(statement.split(None, 1)[1])
        elif statement.startswith("."):
            _declare(kernel, statement)
        elif statement:
            match = STATEMENT.match(statement)
            if not match:
                raise Unsupported(statement)
            kernel.instructions.append(
                Instruction(
                    match[2],
                    match[1] == "!",
                    tuple(split_operands(match[4])),
                    " ".join(statement.split()),
                    *_opcode(match[3]),
                )
            )


class Module(Mapping[str, Kernel]):
    """The kernels of a module by name, each read when it is first asked for."""

    def __init__(self, text: str) -> None:
        self._text = re.sub(r"//[^\n]*", "", text)
        shared = re.search(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+(\w+)\[\]", self._text)
        self._shared = shared[1] if shared else ""
        entries = re.finditer(r"\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{", self._text, re.S)
        self._entries = {match[1]: match for match in entries}
        self._kernels: dict[str, Kernel] = {}
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> Kernel:
        if name not in self._kernels:
            self._kernels[name] = self._read(self._entries[name])
        return self._kernels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def max_threads(self, name: str) -> int:
        """The kernel's __launch_bounds__."""
        bound = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", self._entries[name][3])
        return int(bound[1]) * int(bound[2] or 1) * int(bound[3] or 1) if bound else 1024

    def text(self, name: str) -> str:
        """A kernel's declaration and body, as they stand in the module."""
        if name not in self._texts:
            entry = self._entries[name]
            self._texts[name] = self._text[entry.start() : self._end(entry)]
        return self._texts[name]

    def _end(self, entry: re.Match[str]) -> int:
        depth = 1
        for brace in re.compile(r"[{}]").finditer(self._text, entry.end()):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return brace.start()
        raise Unsupported(f"no brace closes {entry[1]}")

    def _read(self, entry: re.Match[str]) -> Kernel:
        kernel = Kernel(entry[1], _parameters(entry[2]), shared=self._shared)
        kernel.max_threads = self.max_threads(entry[1])
        _read_body(kernel, self._text[entry.end() : self._end(entry)])
        return kernel


@cache
def parse(text: str) -> Module:
    """Return the kernels of a module by name."""
    return Module(text)
