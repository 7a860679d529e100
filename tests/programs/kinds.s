# Every kind of branch, each counted by hand in the margin: p plain, c conditional (n: not taken), j jump, k call,
# r return, J indirect jump, K indirect call, f far.
    .globl _start
_start:
    xor %eax, %eax              # p
    jz 1f                       # c
    ud2
1:  jnz 2f                      # c n
2:  test %eax, %eax             # p
    jz 3f                       # c    to its own fall-through, taken
3:  jnz 4f                      # c n  to its own fall-through, not taken
4:  mov $3, %ecx                # p
5:  loop 5b                     # c c c n (the third falls through)
    jrcxz 6f                    # c    rcx is 0
    ud2
6:  jmp 7f                      # j
    ud2
7:  lea 8f(%rip), %rax          # p
    jmp *%rax                   # J
    ud2
8:  call direct                 # k
    lea direct(%rip), %rax      # p
    call *%rax                  # K
    call *table(%rip)           # K
    push %rax                   # p
    call pops                   # k
    call tail                   # k
    call here                   # k    the usual way to learn rip
here:
    pop %rax                    # p
    lea landing(%rip), %rax     # p
    push %rax                   # p
    ret                         # r    to where nobody called from
    ud2
landing:
    mov $39, %eax               # p    getpid
    syscall                     # f
    cmp $0xdead, %eax           # p
    je 9f                       # c n
9:  mov $60, %eax               # p
    xor %edi, %edi              # p
    syscall                     # f
direct:                         # called three times
    ret                         # r r r
pops:
    ret $8                      # r
tail:
    jmp direct_tail             # j
direct_tail:
    repz ret                    # r
    .data
table:
    .quad direct
