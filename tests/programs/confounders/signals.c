/* A handler that returns through sigreturn, many times. */
#include <signal.h>
#include <stdio.h>
static volatile int seen;
static void handler(int number) { (void)number; seen++; }
int main(void)
{
    signal(SIGUSR1, handler);
    for (int i = 0; i < 200; i++)
        raise(SIGUSR1);
    printf("%d\n", seen);
}
