/* qsort with a callback: indirect calls from inside libc. */
#include <stdio.h>
#include <stdlib.h>
static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(void)
{
    static int values[400];
    unsigned x = 1;
    for (int i = 0; i < 400; i++)
        values[i] = (x = x * 1103515245 + 12345) >> 16 & 1023;
    qsort(values, 400, sizeof *values, compare);
    printf("%d %d\n", values[0], values[399]);
}
