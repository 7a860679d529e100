/* Recursion far deeper than a processor's return stack. */
#include <stdio.h>
__attribute__((noinline)) static int down(volatile int n) { return n ? down(n - 1) + 1 : 0; }
int main(void) { printf("%d\n", down(3000)); }
