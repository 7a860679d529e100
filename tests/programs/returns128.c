/* CALLS calls of an empty function, no C library: nothing else returns, from the first instruction on. */
#ifndef CALLS
#define CALLS 128
#endif

static void __attribute__((noinline)) nothing(void)
{
    __asm__ volatile("");
}

void _start(void)
{
    for (int i = 0; i < CALLS; i++)
        nothing();
    __asm__ volatile("syscall" : : "a"(231), "D"(0) : "rcx", "r11", "memory");
    __builtin_unreachable();
}
