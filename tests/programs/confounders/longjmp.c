/* setjmp/longjmp out of nested calls: returns that never happen. */
#include <setjmp.h>
#include <stdio.h>
static jmp_buf back;
__attribute__((noinline)) static int down(int n) { if (n == 0) longjmp(back, 1); return down(n - 1) + 1; }
int main(void)
{
    volatile int jumps = 0;
    for (int i = 0; i < 200; i++)
        if (setjmp(back) == 0) down(i % 24); else jumps++;
    printf("%d\n", jumps);
}
