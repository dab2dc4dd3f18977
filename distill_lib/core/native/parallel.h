// Parts of a job on several threads.
//
// PyTorch's own operations run on OpenMP's threads, and for some milliseconds after an operation these keep a processor busy waiting for
// the next. Threads of our own would wait for them; so ours are the same ones, where PyTorch's OpenMP can be found in this process.

#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

struct Job {
    std::atomic<int> next;
    int parts;
    const std::function<void(int)> &work;
    void run() {
        for (int i; (i = next++) < parts;) work(i);
    }
};

// work(0) .. work(parts - 1), each once, in any order and on any thread
static void in_parts(int parts, const std::function<void(int)> &work) {
    typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
    static const Parallel openmp = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (parts <= 1) {
        if (parts == 1) work(0);
        return;
    }
    Job job{{0}, parts, work};
    if (openmp) return openmp([](void *data) { static_cast<Job *>(data)->run(); }, &job, parts, 0);
    std::vector<std::thread> others;
    for (int i = 1; i < parts; i++) others.emplace_back([&] { job.run(); });
    job.run();
    for (auto &t : others) t.join();
}

// work(part, first, last) for `parts` runs of 0 .. n - 1, about equally long
static void in_parallel(int parts, long n, const std::function<void(int, long, long)> &work) {
    parts = (int)std::clamp<long>(parts, 1, std::max<long>(n, 1));
    in_parts(parts, [&](int i) { work(i, n * i / parts, n * (i + 1) / parts); });
}
