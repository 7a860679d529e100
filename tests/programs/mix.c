/* No libc: recursion, indirect calls, a jump table, a fork, a string instruction; a few thousand instructions. */
static long call(long n, long a, long b, long c, long d) {
    long r;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}

static __attribute__((noinline)) int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static __attribute__((noinline)) int twice(int x) { return x * 2; }
static __attribute__((noinline)) int thrice(int x) { return x * 3; }
static int (*volatile table[])(int) = {twice, thrice, fib};

static __attribute__((noinline)) int choose(int x) {
    switch (x & 7) {
    case 0: return 3;
    case 1: return fib(3);
    case 2: return twice(x) - 1;
    case 3: return 77;
    case 4: return x / 3;
    case 5: return thrice(x) + 9;
    case 6: return -x;
    default: return x ^ 0x55;
    }
}

static __attribute__((noinline)) void copy(char *to, const char *from, unsigned long n) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

void body(void) {
    static char buffer[64];
    volatile int sum = fib(7);
    for (int i = 0; i < 40; i++) {
        sum += table[i % 3](i % 5);
        sum += choose(sum + i);
    }
    copy(buffer, (const char *)table, 24);
    long child = call(57, 0, 0, 0, 0); /* fork */
    if (child == 0) {
        sum += fib(5);
        call(60, 3, 0, 0, 0);
    }
    int status = 0;
    call(61, child, (long)&status, 0, 0); /* wait4 */
    call(60, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: xor %ebp,%ebp\nand $-16,%rsp\ncall body\nhlt\n");
