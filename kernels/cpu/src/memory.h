// Memory of a call: one allocation, cut into aligned pieces.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace {

constexpr int64_t ALIGNMENT = 64;
inline int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Memory that a thread keeps between its calls.
struct KeptMemory {
    char* memory = nullptr;
    int64_t bytes = 0;

    KeptMemory() = default;
    ~KeptMemory() { free(memory); }
    KeptMemory(const KeptMemory&) = delete;
    KeptMemory& operator=(const KeptMemory&) = delete;
    static KeptMemory& of_this_thread() {
        static thread_local KeptMemory kept;
        return kept;
    }
};

// Lays out pieces: once without memory, to learn the size, and once with it.
class Arena {
public:
    Arena() = default;
    ~Arena() {
        if (!kept_) free(memory_);
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    bool allocate() {
        memory_ = allocated_(used_);
        used_ = 0;
        return memory_ != nullptr;
    }
    // The same in what this thread keeps: no other thread's cache has to hand it over. One arena of a thread at a time.
    bool allocate_kept() {
        KeptMemory& kept = KeptMemory::of_this_thread();
        if (used_ > kept.bytes) {
            free(kept.memory);
            kept.memory = allocated_(used_);
            kept.bytes = kept.memory ? used_ : 0;
        }
        kept_ = true;
        memory_ = kept.memory;
        used_ = 0;
        return memory_ != nullptr;
    }
    template <class T>
    T* take(int64_t count) {
        char* piece = memory_ ? memory_ + used_ : nullptr;
        used_ += aligned(count * static_cast<int64_t>(sizeof(T)));
        return reinterpret_cast<T*>(piece);
    }

private:
    static char* allocated_(int64_t bytes) {
        return static_cast<char*>(aligned_alloc(ALIGNMENT, static_cast<size_t>(bytes < ALIGNMENT ? ALIGNMENT : bytes)));
    }
    char* memory_ = nullptr;
    bool kept_ = false;
    int64_t used_ = 0;
};

}  // namespace
