"""What the parts of the generator share: an assembler that knows where the thread's block is."""

from branchmon.sources.translate.unitcode import layout
from branchmon.sources.translate.unitcode.assembler import Assembler, Label, Mem, Reg
from branchmon.sources.translate.unitcode.layout import Slots
from branchmon.sources.translate.unitcode.program import Program


class UnitAssembler(Assembler):
    """Generates code for one program's blocks at the given slots."""

    def __init__(self, program: Program, slots: Slots, origin: int = 0) -> None:
        super().__init__(origin)
        self.program = program
        self.slots = slots

    def field(self, offset: int, plus: Reg | None = None, scale: int = 1) -> Mem:
        """A field of the thread's block."""
        return Mem(self.slots.unit + offset, plus=plus, scale=scale)

    def lanes_to_memory(self) -> None:
        """Bring the block's copy of the lanes up to date."""
        if self.program.vector:
            self.store_lanes(self.field(layout.LANES))

    def lanes_from_memory(self) -> None:
        """Take the lanes from the block's copy."""
        if self.program.vector:
            self.load_lanes(self.field(layout.LANES))

    def call(self, routine: Label) -> None:
        """Run a shared part, which returns by ``jmp r10``: the program's stack must not be touched."""
        back = Label()
        self.lea_label(Reg.R10, back)
        self.jump(routine)
        self.bind(back)
