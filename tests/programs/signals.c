// Signals of every sort, as they arrive: numbers, codes, values, order. With "die": a segmentation fault; "sleep": sleeps.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static int seen[64], count;
static char *fault_page;

static void note(int number, siginfo_t *info, void *context) { seen[count++] = number * 1000 + info->si_value.sival_int; }

static void fault(int number, siginfo_t *info, void *context)
{
    if (info->si_code == SEGV_ACCERR && info->si_addr == fault_page) {
        mprotect(fault_page, 4096, PROT_READ | PROT_WRITE); // and execute the instruction again
        count++;
        return;
    }
    siglongjmp(back, number * 10 + info->si_code);
}

static void skip(int number, siginfo_t *info, void *context)
{
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2; // the ud2
    count++;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "die")) {
        puts("dying");
        fflush(stdout);
        *(volatile char *)8 = 1;
    }
    if (argc > 1 && !strcmp(argv[1], "sleep"))
        for (;;)
            pause();
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int i = 0; i < 5; i++) {
        sigqueue(getpid(), SIGRTMIN + 1 - i % 2, (union sigval){.sival_int = i});
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    for (int i = 0; i < count; i++)
        printf("%d\n", seen[i]);

    action.sa_sigaction = fault;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    for (volatile int i = 0; i < 3; i++) {
        int number = sigsetjmp(back, 1);
        if (!number)
            *(volatile char *)(8 + i) = 1;
        printf("back with %d\n", number);
    }
    int number = sigsetjmp(back, 1);
    if (!number) {
        volatile int zero = 0;
        printf("%d\n", 1 / zero);
    }
    printf("back with %d\n", number);
    fault_page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    count = 0;
    *fault_page = 1;
    printf("page %d after %d\n", *fault_page, count);
    action.sa_sigaction = skip;
    sigaction(SIGILL, &action, NULL);
    asm volatile("ud2");
    printf("skipped %d\n", count);
    signal(SIGCHLD, SIG_IGN);
    kill(getpid(), SIGCHLD);
    stack_t alternative = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&alternative, NULL);
    action.sa_sigaction = note;
    action.sa_flags |= SA_ONSTACK;
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    puts("end");
    return 0;
}
