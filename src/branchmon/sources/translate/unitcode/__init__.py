"""The branch monitoring unit as x86-64 machine code that a translated program executes itself.

Everything :meth:`branchmon.device.unit.Unit.retire` means, emitted for what the present settings need: the two
counters, the window, the predictor, last branches, totals, trips, a recording. :mod:`branchmon.device` stays the
meaning; the tests compare the whole state with it on random streams of branches.

How it hangs together, and the contract with the translation engine
-------------------------------------------------------------------

* ``Program.refusal(unit)`` says why a unit cannot be run here (then the stepper runs it), else None.
  ``Program.unsettled(unit)``: the next instructions must be stepped and fed to the unit until this is false (a
  register write left a count at its threshold, say, so that an instruction that is no branch may trip).
* ``program = Program.of(unit, totals=, recording=, vector=)`` is the *shape* of the generated code: which events,
  which window class, LBR, predictor. It is hashable. Units of one shape share code: thresholds, window size and whether
  trips stop are read from the thread's block. A thread whose unit is not monitoring can run any program's code on
  ``program.idle()``; what it leaves there means nothing.
* ``slots = layout.Slots(unit, rax, rcx, rdx)``: offsets from the thread's %gs of our block (``layout.SIZE`` bytes,
  64-byte aligned) and of the engine's three spill slots of 8 bytes.
* **Blocks.** At the end of each block, before its branch executes (and before its event point, if it has one), the
  engine adds ``program.block_increment(instructions, kind)`` to the four 64-bit *lanes*. `instructions` include the
  branch; `kind` is PLAIN where a block ends without one. With ``program.vector`` the lanes live in ymm31 (AVX-512VL):
  ``vpaddq ymm31, ymm31, [rip+constant]``; the memory copy at ``layout.LANES`` is stale while the thread runs.
  Otherwise they live in memory at ``slots.unit + layout.LANES``: add the non-zero ones (lea and mov where flags are
  live). On the way that a conditional does not take, ``program.fallthrough_increment`` is added too, if it is not
  None.
* **Event points.** Blocks that end in a branch of a kind in ``program.points`` get, after the block's increment,
  ``routines.point(kind, at=address, base=address of the routines, record=address, spilled=)``: code for that address
  which falls through at its end (100-200 bytes). For a direct call, say ``falls_behind=`` (it goes to the very next
  instruction), which saves a test. It keeps flags, the stack and all registers, with one of two conventions:

  - ``spilled=False``: every register is the program's, before and after. The target is the record's. For CONDITIONAL,
    JUMP, CALL and FAR. A conditional has a point on each of its two ways (two records: taken 1, taken 0).
  - ``spilled=True``: rax holds the target, and the program's rax, rcx, rdx are in their slots. After it rax is still
    the target, rcx and rdx are lost. For RETURN, INDIRECT_JUMP, INDIRECT_CALL (and FAR where the target is not
    constant).

  A point stands where the branch has happened: at a return, for example, after the target was popped; a far branch's
  after the system call. ``layout.record(...)`` makes the 32 bytes of a site's record; ``layout.RECORD_ADDRESSES``
  says how to relocate one.
* **Routines.** ``routines = Routines(program, slots)``: ``routines.code`` is position independent and goes, 16-byte
  aligned, into every code cache within 2 GiB of its points.
* **Leaving.** Where the tracer has to look (a trip with stops wanted, or a full recording ring) the routine jumps to
  the address in the block's ``layout.EXIT_HOOK`` with rcx = the address in the cache to resume at, rax and rdx lost,
  the program's rax, rcx and rdx in their slots, flags and all else the program's, lanes as they should be (in ymm31,
  or memory). ``layout.REASON`` says why (bits ``REASON_TRIP``, ``REASON_RING``), ``layout.TARGET`` where the program
  goes on, ``layout.IP`` which branch it was. The tracer calls ``program.store(...)``, for a trip then
  ``unit.trip()``, ``program.load(...)`` again, and resumes at rcx **with rax = TARGET** (the lanes reloaded into
  ymm31).
* **State.** ``program.load(unit, stops=, exit_hook=, ring=) -> bytes`` is the block for a unit; write it at
  ``slots.unit`` and, with ``program.vector``, load ymm31 from ``layout.LANES``. ``program.store(block, unit,
  lanes=None) -> Trips`` brings a unit up to date from a block at any instruction boundary (``lanes``: the 32 bytes of
  ymm31, where the memory copy is stale); totals are absolute, so storing twice is harmless. ``Trips`` are those
  counted without a stop since the load, by counter, for ``Task.count_trips``.
* **Stops or not.** With ``stops=False`` a trip is counted and STATUS restarts, as ``Pmu.interrupt`` does it, without
  leaving. With ``stops=True`` the thread leaves at the trip with EVENT set and everything frozen, at the very
  instruction.
* **Recording.** With ``recording`` each branch appends a ``layout.RING_DTYPE`` row to the ring ``[start, end)`` given
  to load; rows in use end at ``layout.RING_NEXT``. When it is full the thread leaves with ``REASON_RING``; empty it,
  and store and load again (with ``gap=`` from what store returned), or write ``RING_NEXT`` = start and ``REASON`` = 0.

``program.exact_totals`` are the indices of ``Unit.totals`` that are right after a store. Without ``totals`` only
those that cost nothing are. A family of predictions that nobody asks for is not run (returns alone for ``ret-misp``):
asked for later, it starts cold.
"""

from branchmon.sources.translate.unitcode.layout import Slots
from branchmon.sources.translate.unitcode.program import Program
from branchmon.sources.translate.unitcode.routines import Routines
from branchmon.sources.translate.unitcode.state import Stored

__all__ = ["Program", "Routines", "Slots", "Stored"]
