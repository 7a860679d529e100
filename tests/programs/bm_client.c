/* A client of the driver, after SPEC section 2: packed config, events opened on a child that then executes a program.
 *
 * bm_client THRESHOLD SIGIO|poll|epoll PROGRAM ARGUMENTS: two events (rets and call-ret) on the program, opened disabled
 * with enable_on_exec; waits for rets to trip or to hang up, without a timeout; prints what happened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned type_of_pmu(void)
{
    unsigned type = 0;
    FILE *file = fopen("/sys/bus/event_source/devices/intel_bm/type", "r");
    if (!file || fscanf(file, "%u", &type) != 1)
        exit(9);
    fclose(file);
    return type;
}

static int open_event(unsigned event, unsigned threshold, pid_t pid)
{
    struct perf_event_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.type = type_of_pmu();
    attr.size = sizeof attr;
    attr.config = (uint64_t)event << 1 | (uint64_t)threshold << 8 | (uint64_t)1023 << 40 | 3ULL << 32;
    attr.disabled = 1;
    attr.enable_on_exec = 1;
    attr.exclude_kernel = 1;
    int fd = syscall(SYS_perf_event_open, &attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) {
        printf("open: %s\n", strerror(errno));
        exit(8);
    }
    return fd;
}

static volatile sig_atomic_t signalled, signal_fd;

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    signalled++;
    signal_fd = info->si_fd;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 9;
    unsigned threshold = strtoul(argv[1], 0, 0);
    int go[2];
    if (pipe(go))
        return 9;
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(go[1]);
        if (read(go[0], &byte, 1) != 1)
            _exit(9);
        close(go[0]);
        execv(argv[3], argv + 3);
        _exit(127);
    }
    int rets = open_event(0, threshold, child), bias = open_event(1, 127, child);
    if (!strcmp(argv[2], "SIGIO")) {
        struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
        sigaction(SIGRTMIN, &action, 0);
        fcntl(rets, F_SETSIG, SIGRTMIN);
        fcntl(rets, F_SETOWN, getpid());
        fcntl(rets, F_SETFL, fcntl(rets, F_GETFL) | O_ASYNC);
    }
    if (write(go[1], "x", 1) != 1)
        return 9;
    unsigned batches = 0, hung_up = 0;
    if (!strcmp(argv[2], "epoll")) {
        int set = epoll_create1(0);
        struct epoll_event event = {.events = EPOLLIN};
        epoll_ctl(set, EPOLL_CTL_ADD, rets, &event);
        while (!hung_up) {
            if (epoll_wait(set, &event, 1, -1) < 1)
                continue;
            batches += !!(event.events & EPOLLIN);
            hung_up = !!(event.events & EPOLLHUP);
        }
        close(set);
    } else {
        while (!hung_up) {
            struct pollfd look = {.fd = rets, .events = POLLIN};
            if (poll(&look, 1, -1) < 1)
                continue;
            batches += !!(look.revents & POLLIN);
            hung_up = !!(look.revents & POLLHUP);
        }
    }
    for (int i = 0; i < 500 && !signalled && batches && !strcmp(argv[2], "SIGIO"); i++)
        poll(0, 0, 20); /* the signal may be a little later than the poll */
    uint64_t count = 0, other = 0;
    int failed = ioctl(rets, PERF_EVENT_IOC_DISABLE, 0) || read(rets, &count, sizeof count) != sizeof count ||
                 read(bias, &other, sizeof other) != sizeof other || close(rets) || close(bias);
    int status = 0;
    waitpid(child, &status, 0);
    printf("trips %lu bias %lu polled %s signalled %s fd %s status %d failed %d\n", count, other,
           batches ? "yes" : "no", signalled ? "yes" : "no",
           signalled ? (signal_fd == rets ? "right" : "wrong") : "-", status, failed);
    return failed;
}
