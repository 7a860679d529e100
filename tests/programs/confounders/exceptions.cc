// C++ exceptions through several frames.
#include <cstdio>
__attribute__((noinline)) static int down(int n) { if (n == 0) throw 7; return down(n - 1) + 1; }
int main()
{
    int caught = 0;
    for (int i = 0; i < 20; i++)
        try { down(i % 12); } catch (int) { caught++; }
    std::printf("%d\n", caught);
}
