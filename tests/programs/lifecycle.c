/* Says on stdout what it is about to do, then does it; the test drives it through stdin. One command a line:
 * r N: return N times from an empty function; e N: exit with status N; k N: raise signal N; b: leave a child that waits
 * until stdin closes, and exit 0; i: handle SIGINT by exit status 42; w: answer "waiting" and wait. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void __attribute__((noinline)) empty(void) { __asm__ volatile(""); }

static void on_interrupt(int signal)
{
        (void)signal;
        _exit(42);
}

int main(void)
{
        char line[64];
        while (fgets(line, sizeof line, stdin)) {
                int n = line[1] ? atoi(line + 1) : 0;
                switch (line[0]) {
                case 'r':
                        for (int i = 0; i < n; i++)
                                empty();
                        break;
                case 'e':
                        exit(n);
                case 'k':
                        raise(n);
                        break;
                case 'i':
                        signal(SIGINT, on_interrupt);
                        break;
                case 'b':
                        if (fork() == 0) {
                                close(1);
                                close(2);
                                while (getchar() != EOF)
                                        ;
                                _exit(0);
                        }
                        _exit(0);
                }
                printf("done %s", line);
                fflush(stdout);
        }
        return 0;
}
