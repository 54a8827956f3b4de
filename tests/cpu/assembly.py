"""Reading the assembly that LLVM makes of a kernel."""

import re


def loops_of(text: str) -> list[str]:
    """The text of every loop of one block: from a label to a jump back to it."""
    loops, label, block = [], "", []
    for line in text.splitlines():
        if found := re.match(r"(\.?L\w+):", line):
            label, block = found[1], []
        elif line.strip() and not line.strip().startswith((".", "#", "//")):
            block.append(line)
            if label and re.search(rf"\s{re.escape(label)}$", line):
                loops.append("\n".join(block))
    return loops
