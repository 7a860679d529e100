# The program's own int3 (three) and kill(self, SIGTRAP) (one), with a handler that counts: exit status 4.
    .globl _start
_start:
    mov $13, %eax               # 1  rt_sigaction(SIGTRAP, &action, 0, 8)
    mov $5, %edi                # 2
    lea action(%rip), %rsi      # 3
    xor %edx, %edx              # 4
    mov $8, %r10d               # 5
    syscall                     # 6
    int3                        # 7
    int3                        # 8
    .byte 0xcd, 3               # 9
    mov $39, %eax               # 10
    syscall                     # 11
    mov %eax, %edi              # 12
    mov $5, %esi                # 13
    mov $62, %eax               # 14
    syscall                     # 15
    mov traps(%rip), %edi       # 16
    mov $60, %eax               # 17
    syscall                     # 18
handler:
    incl traps(%rip)            # 4 x 2
    ret
restorer:
    mov $15, %eax               # 4 x 2
    syscall
    .data
action:
    .quad handler, 0x04000000, restorer, 0
traps: .long 0
