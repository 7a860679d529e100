# PAD plain instructions, then LOOPS calls of an empty function; no libc, so every instruction is in this listing.
# Retires, from the first instruction: PAD nops, 1 mov, then 4 a loop (call, ret, dec, jnz), then 3 (mov, xor, syscall).
# The ret of loop i (1 and up) is instruction number PAD + 1 + 4(i-1) + 2.
        .globl _start
_start:
        .rept PAD
        nop
        .endr
        mov     $LOOPS, %ecx
1:      call    empty
        dec     %ecx
        jnz     1b
        mov     $60, %eax
        xor     %edi, %edi
        syscall
empty:  ret
