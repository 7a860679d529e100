/* Mutual tail calls: many jumps between functions, one return. Build with -O2. */
#include <stdio.h>
__attribute__((noinline)) int even(unsigned n);
__attribute__((noinline)) int odd(unsigned n) { return n == 0 ? 0 : even(n - 1); }
__attribute__((noinline)) int even(unsigned n) { return n == 0 ? 1 : odd(n - 1); }
int main(int argc, char **argv) { (void)argv; printf("%d\n", even(5000 + argc)); }
