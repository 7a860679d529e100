/* Two coroutines by swapcontext: every switch returns elsewhere than it was called from. */
#include <stdio.h>
#include <ucontext.h>
static ucontext_t self, other;
static char stack[65536];
static int steps;
static void turns(void) { for (;;) { steps++; swapcontext(&other, &self); } }
int main(void)
{
    getcontext(&other);
    other.uc_stack.ss_sp = stack;
    other.uc_stack.ss_size = sizeof stack;
    makecontext(&other, turns, 0);
    for (int i = 0; i < 200; i++)
        swapcontext(&self, &other);
    printf("%d\n", steps);
}
