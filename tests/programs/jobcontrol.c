// A parent that waits for its child's stops, continuations and end, as a shell does; and a program with children.
#define _GNU_SOURCE
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc > 1) {
        printf("second %s\n", argv[1]);
        return 9;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    int seen[2]; // the parent has seen the child go on: a new stop would make the kernel forget that it did
    char byte = 0;
    if (pipe(seen))
        return 1;
    pid_t child = fork();
    if (!child) {
        raise(SIGSTOP);
        if (read(seen[0], &byte, 1) != 1)
            _exit(6);
        raise(SIGTSTP);
        if (read(seen[0], &byte, 1) != 1)
            _exit(6);
        _exit(5);
    }
    for (int round = 0; round < 2; round++) {
        int status;
        pid_t found = waitpid(child, &status, WUNTRACED);
        printf("%d stopped %d by %d\n", found == child, WIFSTOPPED(status), WSTOPSIG(status));
        kill(child, SIGCONT);
        found = waitpid(child, &status, WCONTINUED);
        printf("%d continued %d\n", found == child, WIFCONTINUED(status));
        if (write(seen[1], &byte, 1) != 1)
            return 1;
    }
    int status;
    waitpid(child, &status, 0);
    printf("exit %d\n", WEXITSTATUS(status));

    char *arguments[] = {argv[0], "spawned", NULL};
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ))
        return 1;
    waitpid(child, &status, 0);
    printf("exit %d\n", WEXITSTATUS(status));
    child = fork();
    if (!child)
        abort();
    waitpid(child, &status, 0);
    printf("signal %d\n", WTERMSIG(status));
    child = fork();
    if (!child)
        for (;;)
            ;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("signal %d\n", WTERMSIG(status));
    return 0;
}
