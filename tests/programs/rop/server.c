/* A toy server with a stack overflow of our own, for tests of the detector. Built by the tests without protections and
   without a C library; it talks on stdin and stdout only. A request is two bytes of length (little endian) and so many bytes
   of data; the reply is a line. Length 0 ends it. */

typedef unsigned long size;

extern long syscall3(long number, long a, long b, long c);
extern void finish(int code);
extern void copy(char *to, const char *from, size count);

static char request[4096]; /* the last request: an attacker knows what it holds, and where it stands */

__attribute__((noinline)) static int read_all(char *to, size count)
{
    while (count) {
        long got = syscall3(0, 0, (long)to, (long)count);
        if (got <= 0)
            return 0;
        to += got;
        count -= got;
    }
    return 1;
}

__attribute__((noinline)) static char upper(char c) { return c >= 'a' && c <= 'z' ? c - 32 : c; }
__attribute__((noinline)) static char lower(char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }
__attribute__((noinline)) static char plain(char c) { return c; }

static char (*const styles[])(char) = {upper, lower, plain};

__attribute__((noinline)) static unsigned fold(const char *data, size count)
{
    if (count == 0)
        return 5381;
    if (count == 1)
        return 33 * 5381u ^ (unsigned char)data[0];
    return fold(data, count / 2) * 31 ^ fold(data + count / 2, count - count / 2);
}

__attribute__((noinline)) static size reply(char *to, const char *data, size count)
{
    char (*style)(char) = styles[count % 3];
    size n = 0;
    for (size i = 0; i < count && i < 32; i++)
        to[n++] = style(data[i]);
    to[n++] = ' ';
    unsigned sum = fold(data, count < 32 ? count : 32);
    for (int shift = 28; shift >= 0; shift -= 4)
        to[n++] = "0123456789abcdef"[sum >> shift & 15];
    to[n++] = '\n';
    return n;
}

__attribute__((noinline)) void handle(size count)
{
    char line[64];
    char data[64];
    copy(data, request, count); /* the overflow */
    size n = reply(line, data, count);
    syscall3(1, 1, (long)line, (long)n);
}

void serve(void)
{
    unsigned char head[2];
    for (;;) {
        if (!read_all((char *)head, 2))
            finish(1);
        size count = head[0] | head[1] << 8;
        if (count == 0)
            finish(0);
        if (count > sizeof request || !read_all(request, count))
            finish(1);
        handle(count);
    }
}
