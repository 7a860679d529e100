/* Functions made at run time, called through a pointer. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
int main(void)
{
    unsigned char *code = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int sum = 0;
    for (int i = 0; i < 200; i++) { /* lea eax, [rdi + i]; ret */
        unsigned char function[] = {0x8d, 0x87, (unsigned char)i, 0, 0, 0, 0xc3};
        memcpy(code + i * 16, function, sizeof function);
    }
    mprotect(code, 65536, PROT_READ | PROT_EXEC);
    for (int i = 0; i < 400; i++)
        sum += ((int (*)(int))(code + (i * 37 % 200) * 16))(i);
    printf("%d\n", sum);
}
