// System calls that signals interrupt: restarted where SA_RESTART says so, EINTR where not; sleeps go on after a stop.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int handled, fds[2];

static void handler(int number)
{
    handled++;
    if (write(fds[1], "x", 1) != 1)
        _exit(1);
}

static void alarm_soon(void)
{
    struct itimerval soon = {.it_value = {.tv_usec = 100000}};
    setitimer(ITIMER_REAL, &soon, NULL);
}

int main(void)
{
    char byte;
    if (pipe(fds))
        return 1;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    alarm_soon();
    int result = read(fds[0], &byte, 1);
    printf("restarted read: %d, handled %d\n", result, handled);
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, NULL);
    alarm_soon();
    result = read(fds[0], &byte, 1);
    printf("read: %d %s, handled %d\n", result, strerror(errno), handled);
    alarm_soon();
    result = poll(NULL, 0, 5000);
    printf("poll: %d %s, handled %d\n", result, strerror(errno), handled);
    sigset_t none;
    sigemptyset(&none);
    alarm_soon();
    result = sigsuspend(&none);
    printf("sigsuspend: %d %s, handled %d\n", result, strerror(errno), handled);
    // A child stops and continues its parent in the middle of a sleep; its own end sends an ignored SIGCHLD.
    pid_t parent = getpid();
    pid_t child = fork();
    if (!child) {
        struct timespec pause = {.tv_nsec = 100000000};
        nanosleep(&pause, NULL);
        kill(parent, SIGSTOP);
        nanosleep(&pause, NULL);
        kill(parent, SIGCONT);
        _exit(0);
    }
    struct timespec pause = {.tv_nsec = 500000000}, left = {0};
    result = nanosleep(&pause, &left);
    printf("nanosleep: %d\n", result);
    waitpid(child, NULL, 0);
    return 0;
}
