#include "team.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bitembed {
namespace {

constexpr int SPINS_BEFORE_SLEEP = 1 << 14;
constexpr int SPINS_BEFORE_YIELD = 1 << 12;
constexpr int MOST_THREADS = 1024;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    void run(int threads, int64_t phases, TeamFunction function, void* context) {
        std::unique_lock<std::mutex> only(running_, std::try_to_lock);
        // While another thread of the program uses the pool, this one runs its work alone.
        const int size = only.owns_lock() ? 1 + grow((threads < MOST_THREADS ? threads : MOST_THREADS) - 1) : 1;
        std::unique_ptr<Team::Taken[]> taken(new Team::Taken[static_cast<size_t>(phases * size)]);
        Team team(size, taken.get());
        if (size > 1) {
            function_ = function, context_ = context, team_ = &team;
            left_.store(size - 1, std::memory_order_relaxed);
            {
                std::lock_guard<std::mutex> lock(sleeping_);
                job_.store((job_.load(std::memory_order_relaxed) / MOST_THREADS + 1) * MOST_THREADS +
                               static_cast<uint64_t>(size - 1),
                           std::memory_order_release);
            }
            wake_.notify_all();
        }
        function(context, team, 0);
        if (size == 1) return;
        for (int spins = 0; left_.load(std::memory_order_acquire) > 0; spins++) {
            pause();
            if (spins > SPINS_BEFORE_YIELD) std::this_thread::yield();
        }
    }

private:
    // How many of `count` workers there are, after trying to start those that are missing.
    int grow(int count) {
        while (workers_ < count) {
            try {
                const uint64_t seen = job_.load(std::memory_order_relaxed);
                std::thread(&Pool::work, this, workers_ + 1, seen).detach();
            } catch (const std::system_error&) {
                break;
            }
            workers_++;
        }
        return workers_ < count ? workers_ : count;
    }

    [[noreturn]] void work(int index, uint64_t seen) {
        while (true) {
            uint64_t job = seen;
            for (int spins = 0; spins < SPINS_BEFORE_SLEEP && job == seen; spins++) {
                pause();
                job = job_.load(std::memory_order_acquire);
            }
            if (job == seen) {
                std::unique_lock<std::mutex> lock(sleeping_);
                wake_.wait(lock, [&] { return job_.load(std::memory_order_acquire) != seen; });
                job = job_.load(std::memory_order_acquire);
            }
            seen = job;
            if (static_cast<uint64_t>(index) > job % MOST_THREADS) continue;  // not in this team
            function_(context_, *team_, index);
            left_.fetch_sub(1, std::memory_order_acq_rel);
        }
    }

    std::mutex running_, sleeping_;
    std::condition_variable wake_;
    std::atomic<uint64_t> job_{0};  // a number that grows, times MOST_THREADS, plus the team's size without its caller
    std::atomic<int> left_{0};
    int workers_ = 0;
    TeamFunction function_ = nullptr;
    void* context_ = nullptr;
    Team* team_ = nullptr;
};

// The threads of an OpenMP runtime. Beside it a pool of one's own would compete with its threads, which spin for a while after
// each of their jobs.
class OpenMp {
public:
    OpenMp(OpenMpParallel parallel, int (*thread)(), int (*threads)())
        : parallel_(parallel), thread_(thread), threads_(threads) {}

    void run(int threads, int64_t phases, TeamFunction function, void* context) {
        std::unique_lock<std::mutex> only(running_, std::defer_lock);
        // While another thread of the program runs a team, this one runs its work alone: it would get a team of its own.
        if (threads > 1 && !only.try_lock()) threads = 1;
        std::unique_ptr<Team::Taken[]> taken(new Team::Taken[static_cast<size_t>(phases * threads)]);
        Team team(threads, taken.get());
        if (threads == 1) return function(context, team, 0);
        Job job = {this, function, context, &team};
        parallel_(
            [](void* given) {
                const Job& mine = *static_cast<const Job*>(given);
                // The runtime may give fewer threads than asked for; all of them write the same number.
                mine.team->size.store(mine.runtime->threads_(), std::memory_order_relaxed);
                mine.function(mine.context, *mine.team, mine.runtime->thread_());
            },
            &job, static_cast<unsigned>(threads), 0);
    }

private:
    struct Job {
        const OpenMp* runtime;
        TeamFunction function;
        void* context;
        Team* team;
    };

    const OpenMpParallel parallel_;
    int (*const thread_)();
    int (*const threads_)();
    std::mutex running_;
};
std::atomic<OpenMp*> openmp{nullptr};

// Never destroyed: its threads live as long as the process. A forked child has no threads and starts its own pool.
std::atomic<Pool*> the_pool{nullptr};
std::mutex pool_creation;

Pool& pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found) return *found;
    std::lock_guard<std::mutex> lock(pool_creation);
    if (!the_pool.load(std::memory_order_relaxed)) {
#if defined(__unix__) || defined(__APPLE__)
        static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); });
        (void)registered;
#endif
        the_pool.store(new Pool, std::memory_order_release);
    }
    return *the_pool.load(std::memory_order_relaxed);
}

}  // namespace

void Team::barrier() {
    if (size == 1) return;
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++) {
        pause();
        if (spins > SPINS_BEFORE_YIELD) std::this_thread::yield();
    }
}

void run_team(int threads, int64_t phases, TeamFunction function, void* context) {
    OpenMp* const runtime = openmp.load(std::memory_order_acquire);
    if (runtime) return runtime->run(threads, phases, function, context);
    pool().run(threads, phases, function, context);
}

void use_openmp(OpenMpParallel parallel, int (*thread)(), int (*threads)()) {
#if defined(__unix__) || defined(__APPLE__)
    // A forked child has none of the runtime's threads, which the runtime may not notice.
    static const int registered = pthread_atfork(nullptr, nullptr, [] { openmp.store(nullptr); });
    (void)registered;
#endif
    static OpenMp runtime(parallel, thread, threads);
    openmp.store(&runtime, std::memory_order_release);
}

}  // namespace bitembed
