/* The example of the driver's authors: 128 calls of an empty function. Without libc, so that nothing precedes the loop. */
static void __attribute__((noinline)) empty(void) { __asm__ volatile(""); }

void _start(void)
{
        for (int i = 0; i < 128; i++)
                empty();
        __asm__ volatile("syscall" : : "a"(60), "D"(0));
}
