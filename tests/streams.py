"""Made-up streams of branches for tests: plausible columns from a seed, without a program."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Stream:
    """Columns of branchmon.events.Branch, as lists of Python numbers."""

    gaps: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    @property
    def columns(self) -> tuple[list[int], ...]:
        return self.gaps, self.kinds, self.taken, self.sources, self.sizes, self.targets

    def part(self, start: int, end: int) -> "Stream":
        return Stream(*(column[start:end] for column in self.columns))

    def __len__(self) -> int:
        return len(self.gaps)


def make_stream(seed: int, length: int, *, code: int = 0x400000) -> Stream:
    """A walk through a made-up program: calls return where they should, most of the time."""
    rng = np.random.default_rng(seed)
    stream, stack, at = Stream(), [], code
    for _ in range(length):
        gap = int(rng.integers(0, 9))
        source = at + 4 * gap
        kind = int(rng.choice([1, 1, 1, 2, 3, 4, 4, 5, 6, 7]))
        size = {1: 2, 2: 5, 3: 5, 4: 1, 5: 2, 6: 2, 7: 2}[kind]
        taken, target = 1, code + 16 * int(rng.integers(0, 64))
        if kind == 1 and rng.random() < 0.5:
            taken, target = 0, source + size
        elif kind in (3, 6):
            stack.append(source + size)
        elif kind == 4 and stack and rng.random() < 0.9:
            target = stack.pop()
        elif kind == 7:
            target = source + size
        for column, value in zip(stream.columns, (gap, kind, taken, source, size, target), strict=True):
            column.append(value)
        at = target
    return stream
