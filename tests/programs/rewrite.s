# Code that is rewritten: a page that is writable and executable (5 versions), and one that is flipped by mprotect.
    .globl _start
_start:
    mov $9, %eax                # 1  mmap(0, 4096, RWX, PRIVATE|ANONYMOUS, -1, 0)
    xor %edi, %edi              # 2
    mov $4096, %esi             # 3
    mov $7, %edx                # 4
    mov $0x22, %r10d            # 5
    mov $-1, %r8                # 6
    xor %r9d, %r9d              # 7
    syscall                     # 8
    mov %rax, %rbx              # 9
    mov $5, %r12d               # 10
1:  movl $0x90909090, (%rbx)    # 5 x 8: r12 = 5: four nops, then r12 rets
    movl $0x90909090, 4(%rbx)
    movb $0xc3, -1(%rbx,%r12)   #        a ret at byte r12 - 1: r12 - 1 nops execute
    call *%rbx
    dec %r12d
    movb $0x90, 4(%rbx)
    test %r12d, %r12d
    jnz 1b
                                # 4+3+2+1+0 = 10 nops, 5 rets
    movl $0xc3909090, (%rbx)    # nop nop nop ret
    mov $5, %edx                # mprotect(page, 4096, R-X)
    call protect
    call *%rbx                  # 3 nops, ret
    mov $3, %edx                # RW-
    call protect
    movl $0xc3c39090, (%rbx)    # nop nop ret
    mov $5, %edx
    call protect
    call *%rbx                  # 2 nops, ret
    mov $60, %eax
    xor %edi, %edi
    syscall
protect:
    mov $10, %eax
    mov %rbx, %rdi
    mov $4096, %esi
    syscall
    ret
