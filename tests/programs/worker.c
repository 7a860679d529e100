// Threads that count for ever; "ready" on a line of its own when all have begun. A line on stdin: print what each did, exit 4.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile unsigned long counts[8];
static volatile int stop;

__attribute__((noinline)) static unsigned long more(unsigned long n) { return n + 1; }

static void *work(void *argument)
{
    unsigned long own = 0;
    volatile unsigned long *count = argument;
    while (!stop) {
        own = more(own);
        ++*count;
        if (*count != own)
            abort();
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t ids[8];
    for (int i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, work, (void *)&counts[i]);
    for (int i = 0; i < threads; i++)
        while (!counts[i])
            usleep(1000);
    puts("ready");
    fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof line, stdin))
        return 1;
    stop = 1;
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    puts("done");
    return 4;
}
