# rep string instructions retire once, whatever their count. 7 of them among 21 instructions.
    .globl _start
_start:
    cld                         # 1
    lea from(%rip), %rsi        # 2
    lea to(%rip), %rdi          # 3
    mov $1000, %ecx             # 4
    rep movsb                   # 5
    xor %ecx, %ecx              # 6
    rep movsb                   # 7   none at all
    mov $1, %ecx                # 8
    rep stosb                   # 9
    lea to(%rip), %rdi          # 10
    mov $100, %ecx              # 11
    xor %eax, %eax              # 12
    rep stosq                   # 13
    mov $50, %ecx               # 14
    lea to(%rip), %rdi          # 15
    repe scasb                  # 16
    lodsb                       # 17  no rep
    rep nop                     # 18  pause, no string instruction
    mov $60, %eax               # 19
    xor %edi, %edi              # 20
    syscall                     # 21
    .bss
from: .skip 4096
to:   .skip 4096
