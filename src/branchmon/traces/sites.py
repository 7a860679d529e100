"""Where a trace's branches stand: counts by thread and address, described while their mappings hold."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from branchmon.events import BranchKind
from branchmon.symbols import Place
from branchmon.traces.reader import Trace
from branchmon.traces.rows import Rows
from branchmon.traces.schema import RowKind
from branchmon.traces.symbols import TraceSymbols

MAX_SITES = 1 << 20
"""More are counted together, without an address."""
_MAPPINGS = frozenset((RowKind.START, RowKind.EXEC, RowKind.MAPPINGS, RowKind.NAMES))


@dataclass
class Site:
    """One branch instruction of one thread."""

    thread: int
    address: int
    kind: int
    place: Place
    count: int = 0


@dataclass
class Sites:
    """All of them.

    :ivar others: branches of sites beyond the limit.
    :ivar changed: files that are not the recorded ones any more.
    """

    sites: dict[tuple[int, int, int], Site] = field(default_factory=dict)
    others: int = 0
    changed: set[str] = field(default_factory=set)

    def by_module(self) -> dict[tuple[int, str], Counter[int]]:
        """Branches by kind, for each thread and module."""
        found: dict[tuple[int, str], Counter[int]] = {}
        for site in self.sites.values():
            found.setdefault((site.thread, site.place.module), Counter())[site.kind] += site.count
        return found

    def hottest(self, kind: BranchKind, number: int) -> list[Site]:
        """The sites of this kind with the highest counts, over all threads of a process together."""
        together: dict[tuple[str, int], Site] = {}
        for site in self.sites.values():
            if site.kind == kind:
                key = (site.place.module, site.place.module_address or site.address)
                known = together.get(key)
                if known is None:
                    together[key] = Site(site.thread, site.address, site.kind, site.place, site.count)
                else:
                    known.count += site.count
        return sorted(together.values(), key=lambda site: (-site.count, site.address))[:number]


def read_sites(trace: Trace) -> Sites:
    """Read the whole trace."""
    found = Sites(changed=set())
    symbols = TraceSymbols()
    for rows in trace.batches():
        for part, events in rows.between_events(_MAPPINGS):
            for thread, own in part.by_thread():
                _add(found, symbols, thread, own)
            for event in events:
                symbols.apply(event)
    found.changed = symbols.changed
    return found


def _add(found: Sites, symbols: TraceSymbols, thread: int, rows: Rows) -> None:
    branches = rows.is_branch
    addresses, first, counts = np.unique(rows.source[branches], return_index=True, return_counts=True)
    kinds = rows.kind[branches][first]
    for address, kind, count in zip(addresses.tolist(), kinds.tolist(), counts.tolist(), strict=True):
        key = (thread, address, kind)
        site = found.sites.get(key)
        if site is None:
            if len(found.sites) >= MAX_SITES:
                found.others += count
                continue
            site = found.sites[key] = Site(thread, address, kind, symbols.describe(thread, address))
        site.count += count
