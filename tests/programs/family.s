# CALL (57 fork, 58 vfork) a child that executes this program again, with an argument; wait for it. Exit status: its.
    .globl _start
_start:
    mov (%rsp), %rax            # argc
    cmp $2, %eax
    je second
    lea path(%rip), %r13
    mov $CALL, %eax             # parent 1
    syscall                     # parent 1
    test %eax,%eax              # both
    jz child                    # both
    mov %eax, %edi              # parent: wait4(pid, &status, 0, 0)
    lea status(%rip), %rsi
    xor %edx, %edx
    xor %r10d, %r10d
    mov $61, %eax
    syscall
    movzbl status+1(%rip), %edi
    mov $60, %eax
    syscall
child:
    mov $59, %eax               # execve("/proc/self/exe", arguments, 0)
    mov %r13, %rdi
    lea arguments(%rip), %rsi
    xor %edx, %edx
    syscall
    ud2
second:
    mov $10, %ecx
1:  call empty
    dec %ecx
    jnz 1b
    mov $7, %edi
    mov $60, %eax
    syscall
empty:
    ret
    .data
arguments: .quad path, path, 0
path:   .asciz "/proc/self/exe"
status: .long 0
