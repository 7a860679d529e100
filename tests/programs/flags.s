# What a step could leak: the trap flag in pushf, in r11 after a system call, in a signal frame. Exit status 0 if none.
    .globl _start
_start:
    pushfq
    pop %rax
    mov %eax, %r15d
    pushfw
    popw %ax
    or %eax, %r15d
    mov $39, %eax
    syscall
    or %r11d, %r15d
    mov $13, %eax               # rt_sigaction(SIGUSR1, handler)
    mov $10, %edi
    lea action(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    syscall
    mov $39, %eax
    syscall
    mov %eax, %edi
    mov $62, %eax               # kill(self, SIGUSR1)
    mov $10, %esi
    syscall
    mov %ss, %eax
    mov %eax, %ss               # no trap between this one and the next
    pushfq
    pop %rax
    or %eax, %r15d
    mov %ss, %eax
    mov %eax, %ss
    call empty                  # the next one a branch
    or leak(%rip), %r15d
    mov %r15d, %edi
    shr $8, %edi
    and $1, %edi
    mov $60, %eax
    syscall
empty:
    ret
handler:
    mov 184(%rsp), %eax         # eflags of the frame: uc at 8, gregs at +40, REG_EFL 17
    or %eax, leak(%rip)
    ret
restorer:
    mov $15, %eax
    syscall
    .data
action:
    .quad handler, 0x04000000, restorer, 0
leak: .long 0
