# Three signals to oneself: two handlers return, the third jumps out of its frame (what siglongjmp does).
    .globl _start
_start:
    mov %rsp, %r14              # 1
    mov $13, %eax               # 2  rt_sigaction(SIGUSR1, &action, 0, 8)
    mov $10, %edi               # 3
    lea action(%rip), %rsi      # 4
    xor %edx, %edx              # 5
    mov $8, %r10d               # 6
    syscall                     # 7
    mov $39, %eax               # 8
    syscall                     # 9
    mov %eax, %ebx              # 10
    movl $3, left(%rip)         # 11
again:
    mov %ebx, %edi              # 3 x 4: kill(self, SIGUSR1)
    mov $10, %esi
    mov $62, %eax
    syscall
    jmp again                   # 2 x 1, behind the two handlers that return
out:
    mov $60, %eax               # 3 at the end
    xor %edi, %edi
    syscall
handler:
    decl left(%rip)             # 3 x 2
    jz leave
    ret                         # 2 x 1
leave:
    mov %r14, %rsp              # 2
    jmp out
restorer:
    mov $15, %eax               # 2 x 2
    syscall
    .data
action:
    .quad handler, 0x44000000, restorer, 0
left: .long 0
