"""Tasks that are made, execute other programs, end, and are let go.

Source: ``man 2 ptrace``, "execve(2) under ptrace" and "Death under ptrace".
"""

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from branchmon.sources import access, ptrace
from branchmon.sources.context import PtraceContext
from branchmon.sources.maps import process_of, program_name, program_path, status_fields
from branchmon.sources.ptrace import OFFSET, Vanished
from branchmon.sources.step import calls, trapmask
from branchmon.sources.step.space import AddressSpace
from branchmon.sources.step.thread import Mode, Thread

if TYPE_CHECKING:
    from branchmon.driver.tasks import Task
    from branchmon.sources.step.loop import Stepper

PATIENCE = 1.0
"""Seconds to wait for a task to stop that should; one that waits in vfork, or in a driver, does not."""


def add(stepper: "Stepper", tid: int, pid: int, space: AddressSpace, parent: Thread | None = None) -> Thread:
    """Follow a task: launched, attached to, or made by `parent`."""
    task = stepper.tasks.start(tid, pid, parent=None if parent is None else parent.task)
    task.comm = program_name(tid)
    thread = Thread(tid, pid, task, space)
    task.context = PtraceContext(tid, pid, lambda: thread.space.memory(), lambda: stopped_siblings(stepper, thread))
    stepper.follow(thread)
    if stepper.sink is not None:
        stepper.sink.started(task, None if parent is None else parent.task)
    return thread


# ---- making --------------------------------------------------------------------------------------------------------


def made_task(stepper: "Stepper", parent: Thread) -> None:
    """The parent stands in fork, vfork or clone, and its child exists."""
    tid = ptrace.event_message(parent.tid)
    if tid in stepper.threads:
        return
    stepper.ledger.settle(parent)
    stepper.ledger.flush_sink(parent)
    flags = calls.clone_flags(parent)
    _adopt(stepper, tid, parent, flags)


def _adopt(stepper: "Stepper", tid: int, parent: Thread, flags: int) -> None:
    pid = parent.pid if flags & calls.CLONE_THREAD else process_of(tid) or tid
    space = parent.space if flags & calls.CLONE_VM else parent.space.forked(pid)
    child = add(stepper, tid, pid, space, parent)
    child.foreign = parent.foreign
    trapmask.inherit(child, parent)
    child.step_only = parent.step_only
    if stepper.engine is not None:
        stepper.engine.made(parent, child)
    stepper.review(child)
    for status in stepper.unborn.pop(tid, ()):
        stepper.pending.append((tid, status))


# ---- executing -----------------------------------------------------------------------------------------------------


def executed(stepper: "Stepper", pid: int) -> None:
    """EVENT_EXEC: a thread, under its process's id now, executes a new program; its siblings are gone."""
    former = ptrace.event_message(pid)
    for other in [other for other in stepper.threads.values() if other.pid == pid and other.tid != former]:
        ended(stepper, other, 0)
    thread = stepper.threads.pop(former)
    thread.tid = thread.task.tid = pid
    if isinstance(thread.task.context, PtraceContext):
        thread.task.context.tid = pid
    stepper.threads[pid] = thread
    regs = ptrace.get_regs(pid)
    if thread.executing:
        calls.retire_exec(stepper, thread, regs.rip)
    stepper.ledger.finish(thread)
    stepper.leave_space(thread)
    thread.space = AddressSpace(pid)
    thread.space.users = 1
    thread.mode = Mode.STOPPED
    thread.resume_signal, thread.group_stop = 0, False
    thread.in_call, thread.call = True, calls.EXECVE
    thread.restarting = thread.own_trap_flag = False
    thread.rip = regs.rip
    thread.task.comm = program_name(pid)
    begin_program(stepper, thread, former)
    thread.foreign = regs.cs != access.USER_CODE_64
    if thread.foreign:
        stepper.warn(f"{thread.task.comm} is a 32-bit program: it ran unmonitored")
    stepper.review(thread)


def begin_program(stepper: "Stepper", thread: Thread, former: int | None = None) -> None:
    """Tell the driver, and the sink, of a program's first instruction."""
    stepper.tasks.executed(thread.task, former_tid=former)
    if stepper.sink is not None:
        stepper.sink.executed(thread.task, program_path(thread.pid))
        stepper.sink.mapped(thread.task, thread.space.refresh())


# ---- ending --------------------------------------------------------------------------------------------------------


def ended(stepper: "Stepper", thread: Thread, status: int) -> None:
    """A task is no more."""
    thread.mode = Mode.RUN
    stepper.threads.pop(thread.tid, None)
    stepper.ledger.finish(thread)
    stepper.tasks.exited(thread.task, status)
    if stepper.sink is not None:
        stepper.sink.exited(thread.task, status)
    stepper.leave_space(thread)
    thread.task.context = None
    stepper.ended(thread, status)
    for tid in list(stepper.unborn):
        _adopt_orphan(stepper, tid, thread)


def _adopt_orphan(stepper: "Stepper", tid: int, thread: Thread) -> None:
    """A new task whose maker was killed before it could tell of it."""
    fields = status_fields(tid)
    makers = {int(fields.get("Tgid", 0)), int(fields.get("PPid", 0))}
    if not any(other.pid in makers for other in stepper.threads.values()):
        _adopt(stepper, tid, thread, 0)


# ---- stopping and letting go ---------------------------------------------------------------------------------------


def stopped_siblings(stepper: "Stepper", thread: Thread) -> list["Task"]:
    """Stop the other tasks of a thread's process, for as long as its stop is being handled; those that stand."""
    standing = {tid for tid, status in stepper.pending if os.WIFSTOPPED(status)}
    found = []
    for other in list(stepper.threads.values()):
        if other is thread or other.pid != thread.pid:
            continue
        if other.mode == Mode.STOPPED or other.tid in standing:
            found.append(other.task)
            continue
        status = stop(other)
        if status is not None:
            stepper.pending.append((other.tid, status))
            if os.WIFSTOPPED(status):
                if other.inside and stepper.engine is not None:
                    with contextlib.suppress(Vanished):
                        stepper.engine.surface(other, status)
                found.append(other.task)
    return found


def stop(thread: Thread) -> int | None:
    """Make a task stop: its next wait status; None if it does not stop in time."""
    with contextlib.suppress(Vanished):
        ptrace.interrupt(thread.tid)
    return wait_patiently(thread.tid, 0.05 if thread.vforking else PATIENCE)


def wait_patiently(tid: int, seconds: float) -> int | None:
    """A task's next wait status; None if there is none in time."""
    deadline = time.monotonic() + seconds
    pause = 0.0
    while True:
        try:
            found, status = os.waitpid(tid, ptrace.WAIT | os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = 0.0005


def release_all(stepper: "Stepper") -> None:
    """Let go the processes that were asked for: all tasks stand first, then all are detached."""
    released, stepper.released = stepper.released, {}
    for pid, stop in released.items():
        members = _stand_still(stepper, pid)
        if stop and members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for thread in members:
            if thread.mode == Mode.STOPPED and thread.tid in stepper.threads:
                with contextlib.suppress(Vanished):
                    let_go(stepper, thread)


def _stand_still(stepper: "Stepper", pid: int) -> list[Thread]:
    """Stop every task of a process, those too that are made meanwhile."""
    while True:
        members = [thread for thread in stepper.threads.values() if thread.pid == pid]
        moving = [thread for thread in members if thread.mode != Mode.STOPPED and not thread.leaving]
        if not moving:
            return members
        for thread in moving:
            status = _take_pending(stepper, thread.tid)
            if status is None:
                status = stop(thread)
            if status is None:
                thread.leaving = True  # when it stops at last
                stepper.review(thread)
                continue
            try:
                stepper.take(thread, status)
            except Vanished:
                thread.leaving = True


def _take_pending(stepper: "Stepper", tid: int) -> int | None:
    for item in stepper.pending:
        if item[0] == tid:
            stepper.pending.remove(item)
            return item[1]
    return None


def let_go(stepper: "Stepper", thread: Thread) -> None:
    """Detach from a stopped task: it goes on as if nobody had watched.

    :raises Vanished: it was killed.
    """
    if stepper.engine is not None:
        stepper.engine.let_go(thread)
    trapmask.hand_back(thread)
    if thread.trap_held is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(thread.tid, signal.SIGTRAP)
    _forget(stepper, thread)
    ptrace.detach(thread.tid, thread.resume_signal)


def _forget(stepper: "Stepper", thread: Thread) -> None:
    thread.mode = Mode.RUN
    stepper.threads.pop(thread.tid, None)
    stepper.ledger.finish(thread)
    stepper.tasks.exited(thread.task, 0)
    stepper.leave_space(thread)
    thread.task.context = None


def refuse_32_bit(thread: Thread) -> bool:
    """A stopped task executes 32-bit code."""
    return ptrace.peek_user(thread.tid, OFFSET["cs"]) != access.USER_CODE_64
