"""Threads in and out of the code cache.

A thread *dives*: it goes on in the cache, until it leaves on purpose (see :mod:`gateway`), or stops for a reason of the
program's. Then it *surfaces*: its registers, its memory and its unit become what they would be had the program been
stepped, and the stepper goes on from there. So whatever cannot be translated is simply stepped.
"""

import os
import signal
import struct
from typing import TYPE_CHECKING

from branchmon.sources import ptrace
from branchmon.sources.ptrace import MASK64, Vanished
from branchmon.sources.step import calls, trapmask
from branchmon.sources.step.thread import Mode
from branchmon.sources.translate import area, inject, place, xstate
from branchmon.sources.translate.code import REGION_SIZE, Code, Full
from branchmon.sources.translate.emit import State
from branchmon.sources.translate.unitcode import Program, layout
from branchmon.sources.translate.unitcode.state import size as block_size

if TYPE_CHECKING:
    from branchmon.sources.step.loop import Stepper
    from branchmon.sources.step.space import AddressSpace
    from branchmon.sources.step.thread import Thread

_SLOTS = struct.Struct("<7QII")
_INTERESTING = frozenset(
    (
        calls.MPROTECT, calls.MUNMAP, calls.MREMAP, calls.PKEY_MPROTECT, calls.MMAP, calls.SHMAT, calls.SHMDT,
        calls.REMAP_FILE_PAGES, calls.RT_SIGRETURN, calls.CLONE, calls.FORK, calls.VFORK, calls.CLONE3, calls.EXECVE,
        calls.EXECVEAT, calls.PTRACE, calls.PROCESS_VM_WRITEV, 157, 158, 317,
    )
)  # fmt: skip
"""Calls that the tracer looks at; prctl, arch_prctl and seccomp among them."""
_PRCTL, _SECCOMP, _PR_SET_SECCOMP, _PR_SET_DISPATCH = 157, 317, 22, 59
_PROT_EXEC = 4
_RESUME_FLAG = 1 << 16


class Engine:
    """The translator's part of a :class:`~branchmon.sources.step.loop.Stepper`.

    :param vector: count in zmm31, where the processor can.
    """

    def __init__(self, stepper: "Stepper", *, vector: bool | None = None) -> None:
        self.stepper = stepper
        self.vector = bool(xstate.zmm31_offset()) if vector is None else vector
        self._regs = ptrace.UserRegs()

    # ---- going in --------------------------------------------------------------------------------------------------

    def dive(self, thread: "Thread") -> bool:
        """Let a stopped thread go on in the cache; False if its next instruction has to be stepped.

        :raises Vanished: it was killed.
        """
        if thread.step_next:
            thread.step_next = False
            return False
        space, unit = thread.space, thread.task.unit
        if (
            thread.step_only
            or thread.own_trap_flag
            or thread.clearing
            or thread.trap_held is not None
            or thread.rip == thread.retired_at
            or not unit.monitoring
        ):
            return False
        self.stepper.ledger.settle(thread)
        if Program.refusal(unit) is not None or Program.unsettled(unit):
            return False
        try:
            address = self._prepare(thread)
        except inject.Refused as refused:
            thread.step_only = True
            self.stepper.warn(f"{thread.task.comm} is stepped, not translated: {refused}")
            return False
        except Vanished:
            self._lost(thread)
            raise
        code = space.code
        if address is None or code is None:
            return False
        region = code.region_at(address)
        assert region is not None
        trapmask.hand_back(thread)
        regs = ptrace.get_regs(thread.tid, self._regs)
        stops = thread.task.wants_stops
        block = code.program.load(unit, stops=stops, exit_hook=region.base + code.gateway.leave_spilled)
        pid, tid = thread.ids
        slots = _SLOTS.pack(regs.rax, regs.rcx, regs.rdx, 0, 0, 0, 0, pid, tid)
        space.write(thread.area, slots.ljust(area.UNIT, b"\0") + block)
        thread.gs_base = regs.gs_base
        regs.gs_base = thread.area
        regs.rip = region.base + code.gateway.enter
        regs.rcx = address
        regs.orig_rax = MASK64
        ptrace.set_regs(thread.tid, regs)
        thread.inside = True
        thread.mode = Mode.INSIDE
        thread.executing = False
        ptrace.cont(thread.tid)
        return True

    def _lost(self, thread: "Thread") -> None:
        if thread.lost is not None:
            self.stepper.pending.append((thread.tid, thread.lost))
            thread.lost = None

    def _prepare(self, thread: "Thread") -> int | None:
        """The cache address for a thread's rip, with everything in place for it."""
        space, tasks = thread.space, self.stepper.tasks
        program = Program.of(thread.task.unit, totals=tasks.all_totals or tasks.always_predict, vector=self.vector)
        code = space.code
        if code is None:
            code = space.code = self._make_code(thread, program)
            if code is None:
                return None
        elif code.program != program:
            if any(other.inside for other in self._sharing(space)):
                return None
            code.reset(program)
        address = self._address(thread, thread.rip)
        if address is None or thread.rip in code.stepped:
            return None
        if not thread.area:
            thread.area = code.free.pop() if code.free else self._make_area(thread, code)
            thread.ids = _ids(thread)
        return address

    def _sharing(self, space: "AddressSpace") -> "list[Thread]":
        return [thread for thread in self.stepper.threads.values() if thread.space is space]

    def _make_code(self, thread: "Thread", program: Program) -> Code | None:
        from branchmon.sources.maps import read_mappings

        at = place.for_tables(read_mappings(thread.pid))
        if at is None:
            raise inject.Refused(inject.MMAP, 12)
        inject.map_memory(thread, at, area.TABLES_SIZE, inject.PROT_READ | inject.PROT_WRITE)
        code = Code(thread.space, program, at)
        flags = bytearray(area.CALLS_SIZE)
        for number in _INTERESTING:
            flags[number] = 1
        code.write(at + area.CALLS, bytes(flags))
        return code

    def _make_area(self, thread: "Thread", code: Code) -> int:
        size = area.AREA_SIZE
        wanted = code.regions[0].base - size * (len(code.own) + 8)
        try:
            at = inject.map_memory(thread, wanted, size, inject.PROT_READ | inject.PROT_WRITE)
        except inject.Refused:
            at = inject.map_memory(thread, 0, size, inject.PROT_READ | inject.PROT_WRITE)
        code.own.append((at, size))
        return at

    def _address(self, thread: "Thread", pc: int) -> int | None:
        """The cache address of a program address, translated now if need be."""
        code = thread.space.code
        assert code is not None
        found = code.blocks.get(pc)
        if found is not None:
            return found
        mapping = thread.space.mapping_at(pc)
        if mapping is None or not thread.space.lasting(pc):
            return None
        if code.region_for(pc) is None:
            from branchmon.sources.maps import read_mappings

            at = place.for_region(read_mappings(thread.pid), mapping)
            if at is None:
                return None
            inject.map_memory(thread, at, REGION_SIZE, inject.PROT_READ | inject.PROT_EXEC)
            code.add_region(at, REGION_SIZE)
        try:
            return code.translate(pc)
        except Full:
            self.halt(thread.space, but=thread)
            code.reset()
            return code.translate(pc)

    # ---- leaving on purpose ----------------------------------------------------------------------------------------

    def left(self, thread: "Thread") -> bool:
        """A thread inside stopped by SIGSTOP: true if it was for us and it goes on inside already.

        False: it has surfaced if the stop was ours (``thread.mode`` is STOPPED), and is as it was otherwise.

        :raises Vanished: it was killed.
        """
        space = thread.space
        code = space.code
        assert code is not None
        regs = ptrace.get_regs(thread.tid, self._regs)
        region = code.region_at(regs.rip)
        if region is None or regs.rip != region.base + code.gateway.stopped:
            return False
        data = space.read(thread.area, area.SAVED)
        rax, rcx, rdx, r11, rdi, rsi, where = struct.unpack_from("<7Q", data)
        regs.rax, regs.rdx, regs.r11, regs.rdi, regs.rsi, regs.orig_rax = rax, rdx, r11, rdi, rsi, MASK64
        go = slot = entry = None
        leave = code.leaves.get(where)
        try:
            if leave is None and where == code.region_at(where).base + code.gateway.missed:  # type: ignore[union-attr]
                (target,) = struct.unpack_from("<Q", data, area.TARGET)
                if self._address(thread, target) is not None and target not in code.stepped:
                    found = code.entry(target)
                    if found is not None:
                        entry, slot = found
                        go = code.blocks[target]
            elif leave is not None and leave.why == "exit":
                go = self._address(thread, leave.pc)
            elif leave is not None and leave.why == "call" and not self._interested(thread, regs):
                go = leave.resume
        except (Full, inject.Refused):
            go = None
        if go is None:
            regs.rcx = rcx
            self._surface_left(thread, regs, where, data)
            return False
        region = code.region_at(go)
        assert region is not None
        if slot is not None and entry is not None:
            regs.rax, regs.rcx = entry, slot
            regs.rip = region.base + code.gateway.enter_entry
        else:
            regs.rcx = go
            regs.rip = region.base + code.gateway.enter
        ptrace.set_regs(thread.tid, regs)
        ptrace.cont(thread.tid)
        return True

    def _interested(self, thread: "Thread", regs: ptrace.UserRegs) -> bool:
        """Whether a system call has to be carried out under the stepper's eyes."""
        number = regs.rax & 0xFFFFFFFF
        space = thread.space
        if number == calls.MUNMAP:
            return space.is_code(regs.rdi, regs.rsi)
        if number in (calls.MPROTECT, calls.PKEY_MPROTECT):
            return bool(regs.rdx & _PROT_EXEC) or space.is_code(regs.rdi, regs.rsi)
        if number == calls.MMAP:
            return bool(regs.rdx & _PROT_EXEC) or space.is_code(regs.rdi, regs.rsi)
        if number == calls.MREMAP:
            return space.is_code(regs.rdi, regs.rsi) or space.is_code(regs.r8, regs.rdx)
        if number == _PRCTL:
            return regs.rdi in (_PR_SET_SECCOMP, _PR_SET_DISPATCH)
        return True

    def _surface_left(self, thread: "Thread", regs: ptrace.UserRegs, where: int, data: bytes) -> None:
        """Surface a thread that has left; `regs` are the program's but for rip and gs."""
        code = thread.space.code
        assert code is not None
        leave = code.leaves.get(where)
        region = code.region_at(where)
        assert region is not None
        executed = 0
        tripped = False
        thread.retired_at = 0
        if leave is not None:
            pc, executed = leave.pc, leave.executed
            thread.step_next = leave.why in ("step", "call")
            if leave.why == "call":
                self._watch_call(thread, regs)
        elif where == region.base + code.gateway.missed:
            (pc,) = struct.unpack_from("<Q", data, area.TARGET)
        else:  # an event point
            block = thread.space.read(thread.area + area.UNIT, layout.TOTALS)
            (pc,) = struct.unpack_from("<Q", block, layout.TARGET)
            (reason,) = struct.unpack_from("<Q", block, layout.REASON)
            tripped = bool(reason & layout.REASON_TRIP)
            (ip,) = struct.unpack_from("<Q", block, layout.IP)
            if ip in code.syscalls:
                thread.retired_at = pc = ip
        self._put(thread, regs, pc, executed, None)
        if tripped and thread.retired_at:
            self._trip_at_call(thread, regs)
        elif tripped:
            thread.task.unit.trip()

    def _trip_at_call(self, thread: "Thread", regs: ptrace.UserRegs) -> None:
        """Show the trip's listeners what a ``syscall`` leaves, and then go back before it: it has not executed."""
        shown = ptrace.UserRegs.from_buffer_copy(regs)
        shown.rip = shown.rcx = thread.retired_at + 2
        shown.r11 = regs.eflags & ~_RESUME_FLAG
        ptrace.set_regs(thread.tid, shown)
        thread.task.unit.trip()
        ptrace.set_regs(thread.tid, regs)

    def _watch_call(self, thread: "Thread", regs: ptrace.UserRegs) -> None:
        if regs.rax == _SECCOMP or (regs.rax == _PRCTL and regs.rdi in (_PR_SET_SECCOMP, _PR_SET_DISPATCH)):
            self.stepper.warn(
                f"{thread.task.comm} filters its system calls: from there on it is stepped, not translated"
            )
            for other in self._sharing(thread.space):
                other.step_only = True

    def _put(self, thread: "Thread", regs: ptrace.UserRegs, pc: int, executed: int, lanes: bytes | None) -> None:
        """Write a surfaced thread's registers, and bring its unit up to date."""
        regs.rip = pc
        regs.gs_base = thread.gs_base
        ptrace.set_regs(thread.tid, regs)
        self._store(thread, lanes)
        thread.gap += executed
        thread.inside = False
        thread.mode = Mode.STOPPED
        thread.resume_signal = 0
        thread.rip = pc
        thread.op = None
        thread.in_call = thread.restarting = False

    def _store(self, thread: "Thread", lanes: bytes | None) -> None:
        code = thread.space.code
        assert code is not None
        size = block_size(code.program)
        block = thread.space.read(thread.area + area.UNIT, size)
        if len(block) < size:
            return
        stored = code.program.store(block, thread.task.unit, lanes)
        for slot, trips in enumerate(stored.counter_trips):
            if trips:
                thread.task.count_trips(slot, trips)

    # ---- coming up wherever it is ----------------------------------------------------------------------------------

    def surface(self, thread: "Thread", status: int) -> None:
        """Make a stopped thread's state the program's, wherever it stands in the cache.

        :raises Vanished: it was killed.
        """
        event = status >> 16
        number = os.WSTOPSIG(status)
        can_step = event != ptrace.EVENT_EXIT and not (event == ptrace.EVENT_STOP and number != signal.SIGTRAP)
        info = ptrace.get_siginfo(thread.tid) if not event else None
        mask = None
        code = thread.space.code
        assert code is not None
        while True:
            regs = ptrace.get_regs(thread.tid)
            found = self._place(thread, regs)
            if found is not None or not can_step:
                break
            if mask is None:  # no other signal shall come meanwhile
                trapmask.adopt(thread)
                mask = ptrace.get_sigmask(thread.tid)
                ptrace.set_sigmask(thread.tid, MASK64 & ~trapmask.SIGTRAP_BIT)
            self._step(thread)
        if mask is not None:
            ptrace.set_sigmask(thread.tid, mask)
            if info is not None:
                ptrace.set_siginfo(thread.tid, info)
        if found is not None and found[0] == "left":
            self._restore_left(thread, regs)
            return
        in_memory = code.program.vector is False
        lanes = None
        if found is None:
            pc, executed, wrapped = regs.rip, 0, False
        else:
            _, pc, executed, wrapped = found
        if not in_memory and not wrapped:
            saved = thread.space.read(thread.area + area.ZMM31, 64)
            if len(saved) == 64:  # else its memory is gone with the process
                exiting = event == ptrace.EVENT_EXIT
                lanes = xstate.swap_zmm31(thread.tid, None if exiting else saved)[:32]
        retired_at, restarting = thread.retired_at, thread.restarting
        self._put(thread, regs, pc, executed, lanes)
        thread.retired_at = retired_at
        if restarting:
            thread.restarting = True
            thread.call = regs.orig_rax
            thread.arguments = (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9)

    def _place(self, thread: "Thread", regs: ptrace.UserRegs) -> tuple[str, int, int, bool] | None:
        """Where the program stands: a word, its pc, instructions executed but not counted, lanes in memory."""
        code = thread.space.code
        assert code is not None
        thread.retired_at = 0
        thread.restarting = False
        rip = regs.rip
        region = code.region_at(rip)
        if region is None:
            return "outside", rip, 0, False
        if rip in (region.base + code.gateway.at_stop, region.base + code.gateway.stopped):
            return "left", 0, 0, False
        special = code.specials.get(rip)
        if special is not None:
            state, pc, executed = special
            if state in (State.SPILLED, State.SPILLED_RDX):
                regs.rax, regs.rcx, rdx = struct.unpack("<3Q", thread.space.read(thread.area, 24))
                if state == State.SPILLED_RDX:
                    regs.rdx = rdx
            elif state == State.CHECKED:
                regs.rcx = thread.space.read_u64(thread.area + area.RCX)
            elif state == State.AFTER_SYSCALL:
                regs.rcx = pc + 2
                thread.restarting = regs.orig_rax != MASK64 and regs.rax in calls.RESTARTS
                pc += 2
            elif state == State.SYSCALL:
                if regs.rcx == rip + 2:
                    regs.rcx = pc + 2  # the kernel went back to restart it
                thread.retired_at = pc
            return "special", pc, executed, False
        block = region.block_at(rip)
        if block is None:
            return None
        pc = block.pc + (rip - block.start)
        executed = code.reader.count(block.pc, pc)
        return "block", pc, executed, block.wrapped

    def _step(self, thread: "Thread") -> None:
        """One instruction of ours. A SIGSTOP cannot be kept away: it is sent again."""
        stopped = False
        while True:
            ptrace.step(thread.tid)
            status = ptrace.wait_for(thread.tid)
            if not os.WIFSTOPPED(status) or status >> 16 == ptrace.EVENT_EXIT:
                self.stepper.pending.append((thread.tid, status))
                thread.inside = False
                raise Vanished
            if status >> 16 or os.WSTOPSIG(status) != signal.SIGTRAP:
                stopped = stopped or not status >> 16
                continue
            if stopped:
                ptrace.send_signal(thread.pid, thread.tid, signal.SIGSTOP)
            return

    def _restore_left(self, thread: "Thread", regs: ptrace.UserRegs) -> None:
        """Surface a thread that is leaving, or has left, but stopped for something else."""
        data = thread.space.read(thread.area, area.SAVED)
        rax, rcx, rdx, r11, rdi, rsi, where = struct.unpack_from("<7Q", data)
        code = thread.space.code
        assert code is not None
        region = code.region_at(regs.rip)
        assert region is not None
        if regs.rip == region.base + code.gateway.stopped:
            thread.swallow = True
        regs.rax, regs.rcx, regs.rdx, regs.r11, regs.rdi, regs.rsi = rax, rcx, rdx, r11, rdi, rsi
        regs.orig_rax = MASK64
        self._surface_left(thread, regs, where, data)

    # ---- all of them -----------------------------------------------------------------------------------------------

    def halt(self, space: "AddressSpace | None" = None, *, but: "Thread | None" = None) -> None:
        """Surface every thread, or those of a space; their stops are taken account of later."""
        from branchmon.sources.step import family

        for thread in list(self.stepper.threads.values()):
            if not thread.inside or thread is but or (space is not None and thread.space is not space):
                continue
            status = family.stop(thread)
            if status is None:
                continue
            self.stepper.pending.append((thread.tid, status))
            if os.WIFSTOPPED(status):
                try:
                    self.surface(thread, status)
                except Vanished:
                    continue

    def invalidate(self, thread: "Thread", start: int, end: int) -> None:
        """Code in a range changed."""
        code = thread.space.code
        if code is None:
            return
        code.reader.forget()
        if code.covers(start, end):
            self.halt(thread.space, but=thread)
            code.reset()

    def forget(self, thread: "Thread") -> None:
        """A thread leaves its address space: its area is free."""
        if thread.area and thread.space.code is not None:
            thread.space.code.free.append(thread.area)
        thread.area = 0
        thread.inside = False

    def made(self, parent: "Thread", child: "Thread") -> None:
        """A thread was made; a forked process has a copy of our memory."""
        if child.space is parent.space or parent.space.code is None:
            return
        child.space.code = code = parent.space.code.forked(child.space)
        code.free += [other.area for other in self._sharing(parent.space) if other.area and other is not child]
        if parent.fork_version != parent.space.code.version:
            code.reset()  # something was translated that the copy may not have

    def let_go(self, thread: "Thread") -> None:
        """A surfaced thread is about to be detached from: the last one of a process takes our memory along."""
        rest = [other for other in self._sharing(thread.space) if other is not thread]
        if not rest and not thread.in_call and not thread.restarting and not thread.resume_signal:
            self.unmap(thread)

    def unmap(self, thread: "Thread") -> None:
        """Take everything of ours out of a process; its threads stand and have surfaced."""
        code, thread.space.code = thread.space.code, None
        if code is None:
            return
        for address, size in code.own:
            try:
                inject.unmap_memory(thread, address, size)
            except (inject.Refused, Vanished):
                self._lost(thread)
                return


def _ids(thread: "Thread") -> tuple[int, int]:
    """Process and thread id as the program itself knows them."""
    from branchmon.sources.maps import status_fields

    fields = status_fields(thread.pid, thread.tid)
    pid = int((fields.get("NStgid") or str(thread.pid)).split()[-1])
    tid = int((fields.get("NSpid") or str(thread.tid)).split()[-1])
    return pid, tid
