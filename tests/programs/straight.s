# Calls, conditionals taken and not, a jump: every instruction is in the tests that use it.
.globl _start
_start:
  mov $3,%ecx
1: call f
  dec %ecx
  jnz 1b
  jmp 2f
  nop
2: mov $60,%eax
  xor %edi,%edi
  syscall
f: test %ecx,%ecx
  jz g
  cmp $9,%ecx
  ja g
  nop
g: ret
