// A team of threads that runs one function together. Threads are kept between calls: they spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <cstdint>

namespace bitembed {

class Team {
public:
    // How many items of its share of a phase a thread, or one that helps it, has taken; a cache line each.
    struct alignas(64) Taken {
        std::atomic<int64_t> items{0};
    };

    Team(int size, Taken* taken) : size(size), taken_(taken) {}

    std::atomic<int> size;

    // Waits until all threads of the team have come here.
    void barrier();
    // The next of `items` items of phase `phase`, each to one thread, or -1 when all are taken. A thread takes its own share
    // first, from the end, so that it meets in its cache what it wrote in an earlier phase; then it helps the others.
    int64_t next(int64_t phase, int thread, int64_t items) {
        for (int helped = 0; helped < size; helped++) {
            const int owner = (thread + helped) % size;
            const int64_t from = items * owner / size, to = items * (owner + 1) / size;
            const int64_t taken = taken_[phase * size + owner].items.fetch_add(1, std::memory_order_relaxed);
            if (taken < to - from) return to - 1 - taken;
        }
        return -1;
    }

private:
    Taken* taken_;
    std::atomic<int> arrived_{0};
    std::atomic<int> round_{0};
};

using TeamFunction = void (*)(void* context, Team& team, int thread);

// Runs `function` on `threads` threads (fewer, when the machine gives no more), this one among them, and returns when all
// are done. `phases` is how many different phases are passed to `Team::next`.
void run_team(int threads, int64_t phases, TeamFunction function, void* context);

// Teams are made of an OpenMP runtime's threads from now on, see bitembed_use_openmp.
using OpenMpParallel = void (*)(void (*function)(void*), void* argument, unsigned threads, unsigned flags);
void use_openmp(OpenMpParallel parallel, int (*thread)(), int (*threads)());

template <class Function>
void run_team(int threads, int64_t phases, Function& function) {
    run_team(
        threads, phases,
        [](void* context, Team& team, int thread) { (*static_cast<Function*>(context))(team, thread); }, &function);
}

}  // namespace bitembed
