/* No libc: a thread that is not the leader calls a little and executes this program anew, taking the leader's place; then a
 * function is called and all is over. */
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}

static char stack[8192] __attribute__((aligned(16)));
static char *arguments[] = {"takeover", "again", 0};

static __attribute__((noinline)) int nothing(int x) { __asm__ volatile("" : "+r"(x)); return x; }

__attribute__((used)) void thread(void) {
    for (int i = 0; i < 20; i++)
        nothing(i);
    call(59, (long)"/proc/self/exe", (long)arguments, 0);
    call(60, 9, 0, 0);
}

__attribute__((used)) void body(long argc) {
    if (argc < 2) {
        long r;
        /* clone(VM|FS|FILES|SIGHAND|THREAD|SYSVSEM) */
        __asm__ volatile("syscall\n test %%rax,%%rax\n jnz 1f\n call thread\n1:"
                         : "=a"(r)
                         : "a"(56L), "D"(0x50f00L), "S"(stack + sizeof stack)
                         : "rcx", "r11", "memory");
        for (;;)
            call(34, 0, 0, 0); /* pause */
    }
    for (int i = 0; i < 30; i++)
        nothing(i);
    call(231, 5, 0, 0);
}

__asm__(".globl _start\n_start: mov (%rsp),%rdi\nand $-16,%rsp\ncall body\nhlt\n");
