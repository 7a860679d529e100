# The toy server's C library. A real one has gadgets such as these by accident, in hundreds; here they stand on purpose,
# so that the exploit generator finds what it needs in this very binary.
    .intel_syntax noprefix
    .text
    .global _start, syscall3, finish, copy, touch, spin

_start:
    xor ebp, ebp
    and rsp, -16
    call serve
    hlt

syscall3:                       # (number, a, b, c)
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    syscall
    ret

finish:
    mov eax, 60
    syscall
    hlt

copy:                           # (to, from, count)
    mov rcx, rdx
    rep movsb
    ret

touch:                          # (path): create an empty file
    push rbx
    mov rbx, rdi
    test rbx, rbx
    je 1f
    mov eax, 85
    mov esi, 0644
    syscall
1:  pop rbx
    ret

nothing:
    ret

# Functions whose ends are gadgets.
restore_di: push rdi
    call nothing
    nop                         # from here, a gadget is call-preceded
    pop rdi                     # from here it is not
    ret
restore_si: push rsi
    call nothing
    nop
    pop rsi
    ret
restore_ax: push rax
    call nothing
    nop
    pop rax
    ret
restore_dx: push rdx
    call nothing
    nop
    pop rdx
    ret
store:  push rax
    call nothing
    nop
    mov [rdi], rax
    ret
enter_kernel: push rcx
    call nothing
    nop
    syscall
    ret
restore_bx: pop rbx
    ret
switch_stack: pop rsp
    ret

# Gadgets that end in indirect jumps: a dispatcher and what it dispatches.
dispatch_start: pop rbx
    pop rcx
    jmp rcx
dispatch: add rbx, 8
    jmp [rbx]
jump_di: pop rdi
    jmp rcx
jump_si: pop rsi
    jmp rcx
jump_ax: pop rax
    jmp rcx
jump_kernel: syscall            # leaves its own return address in rcx
    add rbx, 8
    jmp [rbx]

# Gadgets that end in indirect calls, and one that drops a return address: a return for every call.
call_di: pop rdi
    call rbx
    ud2
call_si: pop rsi
    call rbx
    ud2
call_ax: pop rax
    call rbx
    ud2
call_kernel: syscall
    call rbx
    ud2
drop:   pop rbp
    ret

# A long gadget: nothing that a chain depends on changes.
spin:
    .rept 62
    add r9, 1
    .endr
    ret

    .section .note.GNU-stack,"",@progbits
