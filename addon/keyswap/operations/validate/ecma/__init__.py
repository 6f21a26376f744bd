"""Regular expressions of ECMA-262, read by its grammar, and written again for the engines that search for them here.

Law: a pattern is read with the flag `u`, which JSON Schema asks for (Core §6.4), and one that is only good without it
as Annex B.1.2 has it, which browsers and Node take. What neither grammar has is an error. A text is a row of
characters, also where ECMA without `u` would count halves of them. Only whether there is a match is asked.

    reading     text → tree                             tree     a pattern's parts, and what is known of them
    characters  the lowest level: escapes and sets      writing  tree → what an engine takes
"""

from keyswap.operations.validate.ecma.reading import read
from keyswap.operations.validate.ecma.tree import (
    Back,
    Edge,
    Lookaround,
    Node,
    Repeat,
    Row,
    begins_at_the_start,
    parts,
    size,
)
from keyswap.operations.validate.ecma.writing import BACKTRACKING, LINEAR, written

__all__ = [
    "BACKTRACKING",
    "LINEAR",
    "Back",
    "Edge",
    "Lookaround",
    "Node",
    "Repeat",
    "Row",
    "begins_at_the_start",
    "parts",
    "read",
    "size",
    "written",
]
