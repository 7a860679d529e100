# A thread that is not the leader executes this program again, with an argument: it takes the leader's place.
# The leader waits in clone (CLONE_VFORK), so that every count is known.
    .globl _start
_start:
    mov (%rsp), %rax            # argc: twice
    cmp $2, %eax                # twice
    je second                   # twice
    mov $56, %eax               # clone(VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|VFORK, stack)
    mov $0x54f00, %edi
    lea stack_end(%rip), %rsi
    syscall
    test %eax, %eax             # the thread only
    jz thread
    ud2
thread:
    mov $59, %eax
    lea path(%rip), %rdi
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
    .bss
    .balign 16
    .skip 4096
stack_end:
