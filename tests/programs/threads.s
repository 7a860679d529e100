# Raw clone, as Go does: four threads run at once, each calls an empty function 50 times and writes a byte to a pipe; the
# first reads the four bytes, one at a time, and ends: a leader that is a zombie while its threads still run.
    .globl _start
_start:
    mov $22, %eax               # 5: pipe(fds)
    lea fds(%rip), %rdi
    syscall
    mov $4, %r12d
    lea stacks(%rip), %r13
1:  add $4096, %r13             # 4 x 9, and the children execute test and jz: 4 x 2
    mov $56, %eax               #    clone(VM|FS|FILES|SIGHAND|THREAD|SYSVSEM, stack)
    mov $0x50f00, %edi
    mov %r13, %rsi
    syscall
    test %eax, %eax
    jz child
    dec %r12d
    jnz 1b
    mov $4, %r12d               # 1
2:  xor %eax, %eax              # 4 x 7: read(fds[0], &byte, 1)
    mov fds(%rip), %edi
    lea byte(%rip), %rsi
    mov $1, %edx
    syscall
    dec %r12d
    jnz 2b
    mov $60, %eax               # 3: exit(3), of this thread only
    mov $3, %edi
    syscall
child:
    mov $50, %r15d              # 4 x 1
3:  call empty                  # 4 x 50 x 4, with the ret
    dec %r15d
    jnz 3b
    mov $1, %eax                # 4 x 5: write(fds[1], &byte, 1)
    mov fds+4(%rip), %edi
    lea byte(%rip), %rsi
    mov $1, %edx
    syscall
    mov $60, %eax               # 4 x 3: exit(3), the same: the last thread's status may become the process's
    mov $3, %edi
    syscall
empty:
    ret
    .bss
    .balign 16
stacks: .skip 5 * 4096
fds:    .skip 8
byte:   .skip 8
