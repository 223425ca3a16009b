// Sixteen lanes as one vector of the compiler's extensions where registers are that wide, and as halves of halves elsewhere:
// compilers take vectors that are wider than a register apart lane by lane as soon as they are compared or passed on.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define BITEMBED_UNROLL _Pragma("GCC unroll 16")
#define BITEMBED_INLINE inline __attribute__((always_inline))

namespace {

using f32x8 = float __attribute__((vector_size(32)));
using f32x4 = float __attribute__((vector_size(16)));
using i32x8 = int32_t __attribute__((vector_size(32)));
using i32x4 = int32_t __attribute__((vector_size(16)));
using u32x8 = uint32_t __attribute__((vector_size(32)));
using u32x4 = uint32_t __attribute__((vector_size(16)));
using i8x16 = int8_t __attribute__((vector_size(16)));

template <class V>
using LaneOf = std::remove_cv_t<std::remove_reference_t<decltype(std::declval<const V&>()[0])>>;

template <class Half>
struct Pair {
    Half lo, hi;

    using Lane = LaneOf<Half>;
    BITEMBED_INLINE Lane operator[](int i) const {
        Lane lanes[sizeof(Pair) / sizeof(Lane)];
        memcpy(lanes, this, sizeof lanes);
        return lanes[i];
    }
    BITEMBED_INLINE Pair operator-() const { return {-lo, -hi}; }
};

// Between two pairs, and between a pair and a number in all lanes.
#define BITEMBED_OPERATOR(op)                                                       \
    template <class H>                                                              \
    BITEMBED_INLINE auto operator op(const Pair<H>& a, const Pair<H>& b) {          \
        return Pair<decltype(a.lo op b.lo)>{a.lo op b.lo, a.hi op b.hi};            \
    }                                                                               \
    template <class H>                                                              \
    BITEMBED_INLINE Pair<H> operator op(const Pair<H>& a, typename Pair<H>::Lane b) { \
        return {a.lo op b, a.hi op b};                                              \
    }                                                                               \
    template <class H>                                                              \
    BITEMBED_INLINE Pair<H> operator op(typename Pair<H>::Lane a, const Pair<H>& b) { \
        return {a op b.lo, a op b.hi};                                              \
    }
#define BITEMBED_ASSIGNMENT(op)                                           \
    template <class H, class Other>                                       \
    BITEMBED_INLINE Pair<H>& operator op##=(Pair<H>& a, const Other& b) { \
        return a = a op b;                                                \
    }
BITEMBED_OPERATOR(+)
BITEMBED_OPERATOR(-)
BITEMBED_OPERATOR(*)
BITEMBED_OPERATOR(/)
BITEMBED_OPERATOR(&)
BITEMBED_OPERATOR(|)
BITEMBED_OPERATOR(<<)
BITEMBED_OPERATOR(>>)
BITEMBED_OPERATOR(<)
BITEMBED_OPERATOR(>)
BITEMBED_OPERATOR(==)
BITEMBED_ASSIGNMENT(+)
BITEMBED_ASSIGNMENT(*)
#undef BITEMBED_OPERATOR
#undef BITEMBED_ASSIGNMENT

#if defined(__AVX512F__)
using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
#elif defined(__AVX2__)
using f32x16 = Pair<f32x8>;
using i32x16 = Pair<i32x8>;
using u32x16 = Pair<u32x8>;
#else
using f32x16 = Pair<Pair<f32x4>>;
using i32x16 = Pair<Pair<i32x4>>;
using u32x16 = Pair<Pair<u32x4>>;
#endif

// a where `which` is true (all bits), else b.
template <class Which, class V>
BITEMBED_INLINE V select(const Which& which, const V& a, const V& b) {
    return which ? a : b;
}
template <class Which, class H>
BITEMBED_INLINE Pair<H> select(const Pair<Which>& which, const Pair<H>& a, const Pair<H>& b) {
    return {select(which.lo, a.lo, b.lo), select(which.hi, a.hi, b.hi)};
}

// The larger lanes; of a NaN and a number the second.
BITEMBED_INLINE i32x4 larger(i32x4 a, i32x4 b) { return a > b ? a : b; }
BITEMBED_INLINE f32x4 larger(f32x4 a, f32x4 b) { return a > b ? a : b; }
#if defined(__AVX2__)
BITEMBED_INLINE i32x8 larger(i32x8 a, i32x8 b) { return (i32x8)_mm256_max_epi32((__m256i)a, (__m256i)b); }
BITEMBED_INLINE f32x8 larger(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }
#endif
#if defined(__AVX512F__)
BITEMBED_INLINE i32x16 larger(i32x16 a, i32x16 b) { return (i32x16)_mm512_max_epi32((__m512i)a, (__m512i)b); }
BITEMBED_INLINE f32x16 larger(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
#endif
template <class H>
BITEMBED_INLINE Pair<H> larger(const Pair<H>& a, const Pair<H>& b) {
    return {larger(a.lo, b.lo), larger(a.hi, b.hi)};
}

// The lanes as another type of number.
template <class To, class V>
BITEMBED_INLINE To converted(const V& v) {
    return __builtin_convertvector(v, To);
}
template <class To, class H>
BITEMBED_INLINE To converted(const Pair<H>& v) {
    using Half = decltype(To::lo);
    return {converted<Half>(v.lo), converted<Half>(v.hi)};
}

// Lanes of 16 bits in memory, as numbers of 32 bits and back.
template <class V, class Narrow>
struct HalfwordsOf {
    static BITEMBED_INLINE V load(const uint16_t* from) {
        Narrow narrow;
        memcpy(&narrow, from, sizeof narrow);
        return __builtin_convertvector(narrow, V);
    }
    static BITEMBED_INLINE void store(uint16_t* to, const V& v) {
        const Narrow narrow = __builtin_convertvector(v, Narrow);
        memcpy(to, &narrow, sizeof narrow);
    }
};
template <class V>
struct Halfwords;
template <>
struct Halfwords<u32x4> : HalfwordsOf<u32x4, uint16_t __attribute__((vector_size(8)))> {};
template <>
struct Halfwords<u32x8> : HalfwordsOf<u32x8, uint16_t __attribute__((vector_size(16)))> {};
#if defined(__AVX512F__)
template <>
struct Halfwords<u32x16> : HalfwordsOf<u32x16, uint16_t __attribute__((vector_size(32)))> {};
#endif
template <class H>
struct Halfwords<Pair<H>> {
    static constexpr int64_t LANES_OF_A_HALF = sizeof(H) / 4;
    static BITEMBED_INLINE Pair<H> load(const uint16_t* from) {
        return {Halfwords<H>::load(from), Halfwords<H>::load(from + LANES_OF_A_HALF)};
    }
    static BITEMBED_INLINE void store(uint16_t* to, const Pair<H>& v) {
        Halfwords<H>::store(to, v.lo);
        Halfwords<H>::store(to + LANES_OF_A_HALF, v.hi);
    }
};

// Combines the halves of a vector until four lanes are left.
template <class Combine>
BITEMBED_INLINE f32x4 folded(f32x4 v, Combine) {
    return v;
}
template <class Combine>
BITEMBED_INLINE i32x4 folded(i32x4 v, Combine) {
    return v;
}
#if defined(__AVX2__)
template <class Combine>
BITEMBED_INLINE auto folded(f32x8 v, Combine combine) {
    return combine(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
template <class Combine>
BITEMBED_INLINE auto folded(i32x8 v, Combine combine) {
    return combine(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
#endif
#if defined(__AVX512F__)
template <class V, class Combine>
BITEMBED_INLINE auto folded_sixteen(V v, Combine combine) {
    return folded(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
                  combine);
}
template <class Combine>
BITEMBED_INLINE auto folded(f32x16 v, Combine combine) {
    return folded_sixteen(v, combine);
}
template <class Combine>
BITEMBED_INLINE auto folded(i32x16 v, Combine combine) {
    return folded_sixteen(v, combine);
}
#endif
template <class H, class Combine>
BITEMBED_INLINE auto folded(const Pair<H>& v, Combine combine) {
    return folded(combine(v.lo, v.hi), combine);
}

}  // namespace
