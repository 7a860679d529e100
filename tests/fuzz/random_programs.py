"""Small random programs in assembly: what translators get wrong, in any order, and always the same for a seed.

``python tests/fuzz/random_programs.py SEED`` prints one. Each program runs some hundreds or thousands of instructions
without a library, then writes its registers and its data to stdout and exits with a status made of them. It uses
branches of every kind, flags that live across them, returns that no call matches, the red zone, string instructions,
signals with handlers that look at and change their context, jumps out of frames, and vector registers up to the last.
"""

import random
import subprocess
import sys
from pathlib import Path

VALUES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r12", "r13", "r14")
"""Registers that hold values; r11 is syscall's, r15 is the fuel that ends every program."""
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
ARITHMETIC_FLAGS = 0x8D5
FUEL = 60


def has_avx512() -> bool:
    """Programs may use ymm31 here."""
    return "avx512vl" in Path("/proc/cpuinfo").read_text()


class Program:
    """Writes one program; its labels start with `name`."""

    def __init__(self, seed: int, name: str = "p", *, vectors: bool = False) -> None:
        self.rng = random.Random(seed)
        self.name = name
        self.vectors = vectors
        self.lines: list[str] = []
        self.data: list[str] = []
        self.labels = 0
        self.functions = self.rng.randint(2, 5)
        self.signals = 3
        self.statements = [
            (self.arithmetic, 10),
            (self.flags_across, 4),
            (self.condition, 4),
            (self.loop, 2),
            (self.count_down, 1),
            (self.rcx_zero, 1),
            (self.call, 4),
            (self.call_indirect, 2),
            (self.switch, 2),
            (self.return_to, 1),
            (self.call_next, 1),
            (self.string, 1),
            (self.system_call, 1),
            (self.flags_register, 1),
            (self.red_zone, 1),
            (self.recurse, 1),
            (self.jump_out, 1),
            (self.skip_behind_call, 1),
            (self.jump_over_garbage, 1),
            (self.signal, 1),
            (self.fault, 1),
            (self.vector, 1),
            (self.far_return, 0.3),
        ]

    def text(self) -> str:
        """The program: `name` is its entry; it ends the process."""
        self.put(f"{self.name}:")
        for register in VALUES:
            self.put(f"mov {register}, {self.rng.getrandbits(self.rng.choice((3, 31, 63)))}")
        self.put(f"mov r15, {FUEL}", f"mov qword ptr [{self.name}_jump+16], 0")
        for number, handler in ((10, "handler"), (4, "skip_2"), (11, "skip_8"), (5, "handler")):
            self.handle(number, f"{self.name}_{handler}")
        for _ in range(self.rng.randint(2, 5)):
            self.body(0, 2)
        self.finish()
        for i in range(self.functions):
            self.function(i)
        self.handlers()
        buffer = [f"{self.name}_data: .fill 256, 1, {self.rng.randrange(256)}", f"{self.name}_jump: .quad 0, 0, 0"]
        return "\n".join([*self.lines, ".data", ".balign 64", *buffer, *self.data, ".text", ""])

    # ---- parts -----------------------------------------------------------------------------------------------------

    def put(self, *lines: str) -> None:
        """Add lines."""
        self.lines += lines

    def label(self) -> str:
        """A label that is not in use."""
        self.labels += 1
        return f".L{self.name}_{self.labels}"

    def value(self) -> str:
        """A register that may be changed."""
        return self.rng.choice(VALUES)

    def place(self) -> str:
        """A word of the data."""
        return f"qword ptr [{self.name}_data+{8 * self.rng.randrange(32)}]"

    def body(self, first: int, depth: int) -> None:
        """Some statements; they call functions from `first` on only, so that calls end."""
        for _ in range(self.rng.randint(1, 4)):
            statements, weights = zip(*self.statements, strict=True)
            self.rng.choices(statements, weights)[0](first, depth)

    def function(self, number: int) -> None:
        """A function that stops making calls when the fuel is gone."""
        go_on = self.label()
        self.put(f".balign {self.rng.choice((1, 16))}", f"{self.name}_f{number}:")
        if number < self.functions - 1:
            self.put("dec r15", f"jg {go_on}", "ret", f"{go_on}:")
            self.body(number + 1, 1)
        else:
            for _ in range(self.rng.randint(0, 4)):
                self.arithmetic(0, 0)
        self.put(self.rng.choice(("ret", "ret", "repz ret")))

    def finish(self) -> None:
        """Write everything out and exit."""
        data = f"{self.name}_data"
        for i, register in enumerate(VALUES):
            self.put(f"add [{data}+{8 * i}], {register}")
        self.put("mov eax, 1", "mov edi, 1", f"lea rsi, [{data}]", "mov edx, 256", "syscall")
        self.put(f"mov edi, [{data}]", "and edi, 127", "mov eax, 60", "syscall", "ud2")

    def handlers(self) -> None:
        """Signal handlers: one that computes, two that step over what faulted."""
        self.put(f"{self.name}_handler:", f"inc qword ptr [{self.name}_data]")
        self.put("xor edi, edi", "xor esi, esi", "xor edx, edx")  # addresses on the stack: not the same in every run
        for _ in range(self.rng.randint(0, 5)):
            self.arithmetic(0, 0)
        self.put(f"call {self.name}_f{self.functions - 1}", "ret")
        for size in (2, 8):
            self.put(f"{self.name}_skip_{size}:", f"add qword ptr [rdx+168], {size}", "ret")
        self.put(f"{self.name}_restorer:", "mov eax, 15", "syscall")

    def handle(self, number: int, handler: str) -> None:
        """rt_sigaction with SA_SIGINFO."""
        action = f"{self.name}_action{number}"
        self.data.append(f"{action}: .quad {handler}, 0x04000004, {self.name}_restorer, 0")
        self.put("mov eax, 13", f"mov edi, {number}", f"lea rsi, [{action}]", "xor edx, edx", "mov r10d, 8", "syscall")
        self.put("xor ecx, ecx", "xor r11d, r11d")

    # ---- statements ------------------------------------------------------------------------------------------------

    def arithmetic(self, first: int, depth: int) -> None:
        """One instruction that computes."""
        a, b, place = self.value(), self.value(), self.place()
        choices = [
            f"{self.rng.choice(('add', 'sub', 'xor', 'and', 'or', 'adc', 'sbb', 'cmp', 'test', 'imul'))} {a}, {b}",
            f"{self.rng.choice(('add', 'sub', 'xor', 'adc', 'sbb', 'cmp'))} {a}, {self.rng.randint(-200, 200)}",
            f"{self.rng.choice(('add', 'sub', 'xor', 'mov', 'cmp'))} {a}, {place}",
            f"{self.rng.choice(('add', 'xor', 'mov', 'adc', 'xchg', 'lock xadd'))} {place}, {a}",
            f"{self.rng.choice(('inc', 'dec', 'neg', 'not', 'bswap'))} {a}",
            f"{self.rng.choice(('shl', 'shr', 'sar', 'rol', 'ror', 'rcl'))} {a}, {self.rng.randrange(64)}",
            f"lea {a}, [{b}+{a}*2+{self.rng.randint(-9, 9)}]",
            f"set{self.rng.choice(CONDITIONS)} byte ptr [{self.name}_data+{self.rng.randrange(256)}]",
            f"cmov{self.rng.choice(CONDITIONS)} {a}, {b}",
            f"bt {a}, {self.rng.randrange(64)}",
            f"mov {a}, {self.name}_data[rip]",
        ]
        self.put(self.rng.choice(choices))

    def flags_across(self, first: int, depth: int) -> None:
        """Flags set before a branch and read behind it."""
        self.put(self.rng.choice((f"cmp {self.value()}, {self.value()}", "stc", "clc", f"add {self.value()}, -1")))
        label = self.label()
        how = self.rng.randrange(5)
        if how == 0:
            self.put(f"jmp {label}", f"{label}:")
        elif how == 1:
            self.put(f"j{self.rng.choice(CONDITIONS)} {label}", "nop", f"{label}:")
        elif how == 2:
            self.put(f"call {self.name}_f{self.functions - 1}")
        elif how == 3:
            self.put(f"call {label}", f"{label}:", "lea rsp, [rsp+8]")
        else:
            self.put(f"lea rax, [rip+{label}]", "jmp rax", "ud2", f"{label}:")
        self.put(f"adc {self.value()}, {self.value()}", f"set{self.rng.choice(CONDITIONS)} dl", "movzx edx, dl")

    def condition(self, first: int, depth: int) -> None:
        """if, with or without else."""
        otherwise, end = self.label(), self.label()
        self.put(f"cmp {self.value()}, {self.value()}", f"j{self.rng.choice(CONDITIONS)} {otherwise}")
        self.body(first, depth - 1) if depth > 0 else self.arithmetic(0, 0)
        if self.rng.random() < 0.5:
            self.put(f"jmp {end}", f"{otherwise}:")
            self.arithmetic(0, 0)
            self.put(f"{end}:")
        else:
            self.put(f"{otherwise}:")

    def loop(self, first: int, depth: int) -> None:
        """A loop with its counter on the stack."""
        top, out = self.label(), self.label()
        self.put(f"push {self.rng.randint(1, 7)}", f"{top}:", "dec r15", f"js {out}")
        self.body(first, depth - 1) if depth > 0 else self.arithmetic(0, 0)
        self.put("dec qword ptr [rsp]", f"jnz {top}", f"{out}:", "lea rsp, [rsp+8]")

    def count_down(self, first: int, depth: int) -> None:
        """loop, loope, loopne."""
        top = self.label()
        self.put(f"mov ecx, {self.rng.randint(1, 9)}", f"{top}:", f"add rax, {self.rng.randint(-3, 3)}")
        self.put(f"{self.rng.choice(('loop', 'loope', 'loopne'))} {top}")

    def rcx_zero(self, first: int, depth: int) -> None:
        """jrcxz and jecxz."""
        label = self.label()
        self.put(f"and rcx, {self.rng.choice((0, 1, -2))}", f"{self.rng.choice(('jrcxz', 'jecxz'))} {label}")
        self.arithmetic(0, 0)
        self.put(f"{label}:")

    def callee(self, first: int) -> str:
        """A function that may be called here."""
        return f"{self.name}_f{self.rng.randint(min(first, self.functions - 1), self.functions - 1)}"

    def call(self, first: int, depth: int) -> None:
        """A direct call."""
        self.put(f"call {self.callee(first)}")

    def call_indirect(self, first: int, depth: int) -> None:
        """A call through a register, memory, or the top of the stack."""
        how = self.rng.randrange(4)
        callee = self.callee(first)
        if how == 0:
            register = self.value()
            self.put(f"lea {register}, [{callee}]", f"call {register}", "xor eax, eax")
        elif how == 1:
            pointer = self.label()
            self.data.append(f"{pointer}: .quad {callee}")
            self.put(f"call qword ptr [rip+{pointer}]")
        elif how == 2:
            table = self.label()
            self.data.append(f"{table}: .quad {', '.join(self.callee(first) for _ in range(4))}")
            self.put("and edx, 3", f"call qword ptr [{table}+rdx*8]")
        else:
            self.put(f"lea rsi, [{callee}]", "push rsi", "call qword ptr [rsp]", "pop rsi")

    def switch(self, first: int, depth: int) -> None:
        """A jump through a table."""
        table, end = self.label(), self.label()
        cases = [self.label() for _ in range(4)]
        self.data.append(f"{table}: .quad {', '.join(cases)}")
        register = self.rng.choice(("rax", "rdi", "r9", "r13"))
        self.put(f"and {register}, 3", f"jmp qword ptr [{table}+{register}*8]", "ud2")
        for case in cases:
            self.put(f"{case}:")
            self.arithmetic(0, 0)
            if self.rng.random() < 0.7:
                self.put(f"jmp {end}")
        self.put(f"{end}:")

    def return_to(self, first: int, depth: int) -> None:
        """A return that no call matches, as a return chain has it."""
        labels = [self.label() for _ in range(self.rng.randint(1, 4))]
        for label in reversed(labels):
            self.put(f"lea r8, [rip+{label}]", "push r8")
        self.put("ret", "ud2")
        for i, label in enumerate(labels):
            self.put(f"{label}:")
            self.arithmetic(0, 0)
            if i < len(labels) - 1:
                self.put("ret")
        self.put("xor r8d, r8d")

    def call_next(self, first: int, depth: int) -> None:
        """How position-independent code once learnt where it is."""
        label = self.label()
        self.put(f"call {label}", f"{label}:", f"pop {self.value()}")

    def string(self, first: int, depth: int) -> None:
        """A repeated string instruction, also of no repetition at all."""
        data = f"{self.name}_data"
        self.put(f"lea rsi, [{data}+{self.rng.randrange(64)}]", f"lea rdi, [{data}+{128 + self.rng.randrange(64)}]")
        self.put(f"mov ecx, {self.rng.choice((0, 1, self.rng.randint(2, 40)))}")
        self.put(self.rng.choice(("rep movsb", "rep stosb", "repe cmpsb", "repne scasb", "movsq", "rep lodsb")))
        self.put(f"set{self.rng.choice(CONDITIONS)} al")

    def system_call(self, first: int, depth: int) -> None:
        """A system call whose result is known; what it leaves in rcx and r11 counts, too."""
        self.put(self.rng.choice(("mov eax, 24", "mov eax, 3; mov edi, -1", "mov eax, 8; mov edi, -1", "mov eax, -1")))
        self.put("syscall", f"and r11d, {ARITHMETIC_FLAGS}", "xor rdx, r11", "xor rbx, rcx", "mov r11d, 5")

    def flags_register(self, first: int, depth: int) -> None:
        """pushf and popf."""
        register = self.value()
        self.put("pushfq", f"pop {register}", f"and {register}, {ARITHMETIC_FLAGS}")
        if self.rng.random() < 0.5:
            self.put(
                f"mov rax, {register}", "or rax, 0x202", "push rax", "popfq", f"set{self.rng.choice(CONDITIONS)} al"
            )

    def red_zone(self, first: int, depth: int) -> None:
        """Data below the stack pointer, across branches."""
        at, label = 8 * self.rng.randint(1, 16), self.label()
        self.put(f"mov [rsp-{at}], {self.value()}", f"cmp {self.value()}, {self.value()}")
        self.put(f"j{self.rng.choice(CONDITIONS)} {label}", "nop", f"{label}:", f"mov r9, [rsp-{at}]")
        if self.rng.random() < 0.5:
            other = self.label()
            self.put(f"lea r8, [rip+{other}]", "jmp r8", f"{other}:", f"add r9, [rsp-{at}]")

    def recurse(self, first: int, depth: int) -> None:
        """Recursion, deeper than the return stack or not."""
        function, leave, behind = self.label(), self.label(), self.label()
        self.put(f"mov edi, {self.rng.choice((3, 15, 16, 17, 40))}", f"call {function}", f"jmp {behind}")
        self.put(f"{function}:", "dec edi", f"jz {leave}", f"call {function}", f"{leave}:")
        self.arithmetic(0, 0)
        self.put("ret", f"{behind}:")

    def jump_out(self, first: int, depth: int) -> None:
        """setjmp and, some frames deeper, longjmp."""
        there, inner, outer = self.label(), self.label(), self.label()
        jump = f"{self.name}_jump"
        self.put(f"lea rax, [rip+{there}]", f"mov [{jump}], rax", f"mov [{jump}+8], rsp", f"call {outer}", "ud2")
        self.put(f"{outer}:", f"call {inner}", "ud2", f"{inner}:", f"mov rsp, [{jump}+8]", f"jmp qword ptr [{jump}]")
        self.put(f"{there}:")

    def skip_behind_call(self, first: int, depth: int) -> None:
        """A callee that returns behind where its call came from."""
        function, behind = self.label(), self.label()
        self.put(f"call {function}", "nop", f"jmp {behind}", f"{function}:", "inc qword ptr [rsp]", "ret", f"{behind}:")

    def jump_over_garbage(self, first: int, depth: int) -> None:
        """Bytes between instructions that are none."""
        label = self.label()
        self.put(f"jmp {label}", f".byte {self.rng.choice((0xE8, 0xB8, 0x0F, 0x62))}", f"{label}:")

    def signal(self, first: int, depth: int) -> None:
        """A signal to oneself."""
        if self.signals == 0:
            return
        self.signals -= 1
        self.put("mov eax, 39", "syscall", "mov edi, eax", "mov eax, 62", "mov esi, 10", "syscall")
        self.put("xor edi, edi", "xor r11d, r11d", "xor ecx, ecx")

    def fault(self, first: int, depth: int) -> None:
        """An instruction that faults, and a handler that steps over it; or a breakpoint of the program's own."""
        if self.signals == 0:
            return
        self.signals -= 1
        flags = self.rng.choice(("stc", "clc", "cmp rax, rbx"))
        self.put(flags, self.rng.choice(("ud2", ".byte 0x48,0x8b,0x04,0x25,0,0,0,0", "int3")), "adc rax, 0")

    def vector(self, first: int, depth: int) -> None:
        """Vector registers across a branch."""
        label = self.label()
        low, high = ("ymm31", "xmm31") if self.vectors and self.rng.random() < 0.7 else ("xmm5", "xmm5")
        add = f"vpaddq {low}, {low}, {low}" if low == "ymm31" else "paddq xmm5, xmm5"
        to, back = ("vmovq", "vmovq") if low == "ymm31" else ("movq", "movq")
        self.put(f"{to} {high}, {self.value()}", f"cmp rax, {self.value()}", f"j{self.rng.choice(CONDITIONS)} {label}")
        self.put(add, f"{label}:")
        if self.rng.random() < 0.5:
            self.put(f"call {self.name}_f{self.functions - 1}")
        self.put(f"{back} {self.value()}, {high}")

    def far_return(self, first: int, depth: int) -> None:
        """iretq to the next instruction."""
        label = self.label()
        self.put("mov rax, rsp", "push 0x2b", "push rax", "pushfq", "push 0x33", f"lea rax, [rip+{label}]", "push rax")
        self.put("iretq", "ud2", f"{label}:", "xor eax, eax")


def source_of(seeds: list[int], *, vectors: bool) -> str:
    """One assembly source with a program for each seed; argv[1] says which to run."""
    programs = [Program(seed, f"p{i}", vectors=vectors) for i, seed in enumerate(seeds)]
    table = ", ".join(program.name for program in programs)
    start = f"""
.intel_syntax noprefix
.globl _start
.text
_start:
    mov rsi, [rsp+16]
    xor eax, eax
1:  movzx ecx, byte ptr [rsi]
    jrcxz 2f
    lea eax, [rax+rax*4]
    lea eax, [rcx+rax*2-48]
    inc rsi
    jmp 1b
2:  jmp qword ptr [table+rax*8]
.data
table: .quad {table}
.text
"""
    return start + "\n".join(program.text() for program in programs)


def build(seeds: list[int], directory: Path, *, vectors: bool) -> Path:
    """Assemble and link the programs of some seeds; run the result with the index of one."""
    source, target = directory / "random.s", directory / "random"
    source.write_text(source_of(seeds, vectors=vectors))
    command = ["gcc", "-nostdlib", "-static", "-no-pie", "-Wl,-z,noexecstack", "-o", str(target), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return target


if __name__ == "__main__":
    print(source_of([int(sys.argv[1])], vectors=has_avx512()))
