// C++: exceptions through frames, threads with thread-local storage, virtual and tail calls.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Guard {
    int &count;
    ~Guard() { count++; }
};

static int unwound;

__attribute__((noinline)) int deep(int depth)
{
    Guard guard{unwound};
    if (!depth)
        throw std::runtime_error("deep");
    return deep(depth - 1) + 1;
}

struct Base {
    virtual int value(int n) { return n; }
    virtual ~Base() {}
};
struct Derived : Base {
    int value(int n) override { return n * 2; }
};

static thread_local int local = 1;

int main()
{
    for (int i = 1; i < 4; i++) {
        try {
            deep(i);
        } catch (const std::exception &error) {
            std::printf("%s, unwound %d\n", error.what(), unwound);
        }
    }
    Base *objects[] = {new Base, new Derived};
    int sum = 0;
    for (int i = 0; i < 10; i++)
        sum += objects[i % 2]->value(i);
    std::printf("sum %d\n", sum);
    std::atomic<int> total{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 20; n++)
                local += i;
            total += local;
        });
    for (auto &thread : threads)
        thread.join();
    std::printf("total %d, local %d\n", total.load(), local);
    for (Base *object : objects)
        delete object;
}
