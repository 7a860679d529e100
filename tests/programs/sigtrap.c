// SIGTRAP blocked and handled: what a stepper's own SIGTRAPs would destroy. Prints what it finds.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t traps, users;
static sigset_t inside, frame;

static void trap(int number) { traps++; }
static void user(int number, siginfo_t *info, void *context)
{
    users++;
    pthread_sigmask(SIG_SETMASK, NULL, &inside);
    frame = ((ucontext_t *)context)->uc_sigmask;
}

static int blocked(void)
{
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    return sigismember(&mask, SIGTRAP);
}

int main(void)
{
    sigset_t all, old;
    signal(SIGTRAP, trap);
    struct sigaction action = {.sa_sigaction = user, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);

    raise(SIGTRAP);
    printf("handled %d\n", traps);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    printf("old %d blocked %d\n", sigismember(&old, SIGTRAP), blocked());
    raise(SIGTRAP); // waits
    printf("waits %d\n", traps);
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    raise(SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &usr1, NULL);
    printf("users %d inside %d frame %d after %d\n", users, sigismember(&inside, SIGTRAP), sigismember(&frame, SIGTRAP),
           blocked());
    sigprocmask(SIG_SETMASK, &old, &all);
    printf("was %d now %d traps %d\n", sigismember(&all, SIGTRAP), blocked(), traps);
    raise(SIGUSR1);
    printf("inside %d frame %d after %d\n", sigismember(&inside, SIGTRAP), sigismember(&frame, SIGTRAP), blocked());
    struct sigaction now;
    sigaction(SIGTRAP, NULL, &now);
    printf("handler %d\n", now.sa_handler == trap);
    return 0;
}
