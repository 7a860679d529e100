// Code that moves and changes: mmap over code, mremap of code, munmap and a new mapping at the same place, a shared alias.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int (*function)(void);

static void write_return(unsigned char *at, int value)
{
    unsigned char code[] = {0xb8, value, 0, 0, 0, 0xc3}; // mov $value, %eax; ret
    memcpy(at, code, sizeof code);
}

int main(void)
{
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    write_return(page, 1);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    printf("%d\n", ((function)page)());
    mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    write_return(page, 2);
    page[0] = 0x90; // nop, and the rest is data to it
    memcpy(page + 1, "\xb8\x02\0\0\0\xc3", 6);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    printf("%d\n", ((function)page)());
    unsigned char *moved = mremap(page, 4096, 8192, MREMAP_MAYMOVE);
    printf("%d\n", ((function)moved)());
    munmap(moved, 8192);
    unsigned char *again =
        mmap(moved, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (int i = 3; i < 6; i++) {
        write_return(again, i);
        printf("%d\n", ((function)again)());
    }
    int fd = memfd_create("code", 0);
    if (ftruncate(fd, 4096))
        return 1;
    unsigned char *writable = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *executable = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    for (int i = 6; i < 9; i++) {
        write_return(writable, i);
        printf("%d\n", ((function)executable)());
    }
    return 0;
}
