// Memory of a call: one allocation, cut into aligned pieces.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace {

constexpr int64_t ALIGNMENT = 64;
inline int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Lays out pieces: once without memory, to learn the size, and once with it.
class Arena {
public:
    Arena() = default;
    ~Arena() { free(memory_); }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    bool allocate() {
        memory_ = static_cast<char*>(aligned_alloc(ALIGNMENT, static_cast<size_t>(most_(used_, ALIGNMENT))));
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
    static int64_t most_(int64_t a, int64_t b) { return a < b ? b : a; }
    char* memory_ = nullptr;
    int64_t used_ = 0;
};

}  // namespace
