"""The ops of the IR: importing this package fills the op table, one file a concept.

To add an op: declare it with `primitive` or `composite`, give it `infer` and `reference` (or
`decompose`), add its row to docs/architecture.md; a test fails on holes.
"""

from tilth.ir.ops import (  # noqa: F401 - imported for their entries in the table
    activations,
    attention,
    contraction,
    control,
    creation,
    elementwise,
    fusion,
    indexing,
    lookup,
    movement,
    normalization,
    ordering,
    pooling,
    quantize,
    random,
    recurrent,
    reduction,
)
from tilth.ir.ops.table import DECOMPOSE, INFER, OPS, REFERENCE, has_tag, make, op

__all__ = ["DECOMPOSE", "INFER", "OPS", "REFERENCE", "has_tag", "make", "op"]
