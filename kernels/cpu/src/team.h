// A team of threads that runs one function together. Threads are kept between calls: they spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <cstdint>

namespace bitembed {

class Team {
public:
    Team(int size, std::atomic<int64_t>* counters) : size(size), counters_(counters) {}

    const int size;

    // Waits until all threads of the team have come here.
    void barrier();
    // The next item of phase `phase`, from 0 up, each to one thread.
    int64_t next(int64_t phase) { return counters_[phase].fetch_add(1, std::memory_order_relaxed); }

private:
    std::atomic<int64_t>* counters_;
    std::atomic<int> arrived_{0};
    std::atomic<int> round_{0};
};

using TeamFunction = void (*)(void* context, Team& team, int thread);

// Runs `function` on `threads` threads (fewer, when the machine gives no more), this one among them, and returns when all
// are done. `phases` is how many different phases are passed to `Team::next`.
void run_team(int threads, int64_t phases, TeamFunction function, void* context);

template <class Function>
void run_team(int threads, int64_t phases, Function& function) {
    run_team(
        threads, phases,
        [](void* context, Team& team, int thread) { (*static_cast<Function*>(context))(team, thread); }, &function);
}

}  // namespace bitembed
