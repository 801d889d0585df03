/* The elementwise parts of a small model, each in one pass over the memory: what ops.py calls where this was compiled.

   A row at a time is read into float32, computed in the caches, and written once in its own type: a float or a bfloat16
   (the upper half of a float, rounded to the nearest, ties to even), told apart by `rounded`. No state, no threads, no
   memory of its own beyond the stack: the caller (kernels.py) knows the most numbers of a row.

   Rows that cannot be vectorised as a whole (sums, maxima) say so by `omp simd`, so that no flag that gives up NaN or
   infinity is needed: what is not finite in a model stays so. */

#if defined(__GNUC__) && !defined(__clang__)
/* GCC would follow a clamped number on a path of its own, and then no longer make vectors of the loop; six times as long */
#pragma GCC optimize("no-thread-jumps")
#endif

#include <stdint.h>
#include <stdlib.h> /* for __GLIBC__ */

/* One more whenever a function here changes what it takes or does: kernels.py leaves alone what is of another version. */
int version(void) { return 3; }

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
/* compiled three times; the loader takes the one that suits the processor */
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
#else
#define KERNEL void
#endif
#define INLINE static inline __attribute__((always_inline))

typedef union {
    float number;
    uint32_t bits;
} word;

INLINE float widened(uint16_t half) {
    word w = {.bits = (uint32_t)half << 16};
    return w.number;
}

INLINE uint16_t halved(float number) {
    word w = {.number = number};
    uint32_t nearest = (w.bits + 0x7fff + ((w.bits >> 16) & 1)) >> 16;
    return (uint16_t)((w.bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest); /* rounding up would lose a NaN */
}

INLINE void get(float *restrict row, const void *from, int rounded, long at, long n) {
    if (rounded) {
        const uint16_t *restrict halves = (const uint16_t *)from + at;
        for (long i = 0; i < n; i++) row[i] = widened(halves[i]);
    } else {
        const float *restrict numbers = (const float *)from + at;
        for (long i = 0; i < n; i++) row[i] = numbers[i];
    }
}

INLINE void put(void *to, int rounded, long at, const float *restrict row, long n) {
    if (rounded) {
        uint16_t *restrict halves = (uint16_t *)to + at;
        for (long i = 0; i < n; i++) halves[i] = halved(row[i]);
    } else {
        float *restrict numbers = (float *)to + at;
        for (long i = 0; i < n; i++) numbers[i] = row[i];
    }
}

/* e to the x, to 3e-7 of itself: 2 to a whole power, by its bits, times a Taylor series on half an octave each way.
   Below -87 it is 1.6e-38, above 88 1.7e38; NaN stays NaN. A number of size 2 to the 23 added and taken away again
   rounds to a whole number, which its lowest bits then are. */
INLINE float exponential(float x) {
    float below = 88.0f < x ? 88.0f : x, within = -87.0f > below ? -87.0f : below;
    word octaves = {.number = within * 1.44269504f + 12582912.0f};
    float power = octaves.number - 12582912.0f;
    float rest = (within - power * 0.693359375f) + power * 2.12194440e-4f, square = rest * rest;
    float last = (1.0f / 24 + rest * (1.0f / 120)) + square * (1.0f / 720);
    float series = (1 + rest) + square * ((0.5f + rest * (1.0f / 6)) + square * last);
    word scale = {.bits = (octaves.bits << 23) + 0x3f800000};
    return series * scale.number;
}

INLINE float root(float x) { return __builtin_sqrtf(x); }

/* y = x w / rms(x); `scales` [rows] takes 1 / rms(x) for the way back. */
KERNEL norm(const void *x, int x_rounded, const float *restrict weight, float epsilon, void *y, int y_rounded,
            float *restrict scales, long rows, long n) {
    float row[n];
    for (long r = 0; r < rows; r++) {
        get(row, x, x_rounded, r * n, n);
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < n; i++) squares += row[i] * row[i];
        float scale = 1 / root(squares / (float)n + epsilon);
        scales[r] = scale;
        for (long i = 0; i < n; i++) row[i] = row[i] * scale * weight[i];
        put(y, y_rounded, r * n, row, n);
    }
}

/* With u = x / rms(x) and g the gradient by y: dx = (g w - u mean(g w u)) / rms(x); by_weight += sum of g u. */
KERNEL norm_back(const void *g, int g_rounded, const void *x, int x_rounded, const float *restrict weight,
                 const float *restrict scales, void *dx, float *restrict by_weight, long rows, long n) {
    float gradient[n], unit[n], sums[n];
    for (long first = 0; first < rows; first += 64) { /* sums of sums: few roundings */
        long last = first + 64 < rows ? first + 64 : rows;
        for (long i = 0; i < n; i++) sums[i] = 0;
        for (long r = first; r < last; r++) {
            float scale = scales[r], along = 0;
            get(gradient, g, g_rounded, r * n, n);
            get(unit, x, x_rounded, r * n, n);
#pragma omp simd reduction(+ : along)
            for (long i = 0; i < n; i++) {
                unit[i] *= scale;
                sums[i] += gradient[i] * unit[i];
                gradient[i] *= weight[i];
                along += gradient[i] * unit[i];
            }
            along /= (float)n;
            for (long i = 0; i < n; i++) gradient[i] = (gradient[i] - unit[i] * along) * scale;
            put(dx, x_rounded, r * n, gradient, n);
        }
        for (long i = 0; i < n; i++) by_weight[i] += sums[i];
    }
}

/* y = x cos + (x with its halves exchanged) sin, or for sign = -1 the way back, over [a, b, c, n]. Strides are in
   numbers, for a, b and c each; the last dimension is dense. */
KERNEL turn(const void *x, const long *x_step, void *y, const long *y_step, int rounded, const float *cos,
            const float *sin, const long *angle_step, float sign, const long *sizes, long n) {
    float row[n], turned[n];
    long half = n / 2;
    for (long a = 0; a < sizes[0]; a++)
        for (long b = 0; b < sizes[1]; b++)
            for (long c = 0; c < sizes[2]; c++) {
                long at = a * angle_step[0] + b * angle_step[1] + c * angle_step[2];
                const float *restrict cosines = cos + at, *restrict sines = sin + at;
                get(row, x, rounded, a * x_step[0] + b * x_step[1] + c * x_step[2], n);
                for (long i = 0; i < half; i++) {
                    turned[i] = row[i] * cosines[i] + sign * row[i + half] * sines[i];
                    turned[i + half] = row[i + half] * cosines[i + half] + sign * row[i] * sines[i + half];
                }
                put(y, rounded, a * y_step[0] + b * y_step[1] + c * y_step[2], turned, n);
            }
}

/* The end of a row's first `seen` numbers, moved on to whole vectors: what is behind is masked, which is cheaper than
   numbers one by one. */
INLINE long filled(long seen, long n) {
    long whole = (seen + 15) & ~15L;
    return whole < n ? whole : n;
}

/* In place over [matrices, n, n]: softmax(scale * s) of what row r sees, which is itself and the window - 1 before it;
   zero for the rest. */
KERNEL causal_softmax(void *s, int rounded, float scale, long window, long matrices, long n) {
    float row[n];
    for (long r = 0; r < matrices * n; r++) {
        long seen = r % n + 1, first = seen > window ? seen - window : 0, start = first & ~15L, end = filled(seen, n);
        get(row, s, rounded, r * n, end);
        for (long i = start; i < first; i++) row[i] = -__builtin_inff();
        for (long i = seen; i < end; i++) row[i] = -__builtin_inff();
        float most = row[first], sum = 0;
#pragma omp simd reduction(max : most)
        for (long i = start; i < end; i++) most = row[i] > most ? row[i] : most;
#pragma omp simd reduction(+ : sum)
        for (long i = start; i < end; i++) {
            row[i] = exponential((row[i] - most) * scale);
            sum += row[i];
        }
        float share = 1 / sum;
        for (long i = start; i < end; i++) row[i] *= share;
        for (long i = 0; i < first; i++) row[i] = 0;
        for (long i = seen; i < n; i++) row[i] = 0;
        put(s, rounded, r * n, row, n);
    }
}

/* In place over [matrices, n, n]: the gradient by p = causal_softmax(s) becomes that by s; where p is 0, so is it. */
KERNEL causal_softmax_back(void *g, const void *p, int rounded, float scale, long matrices, long n) {
    float gradient[n], share[n];
    for (long r = 0; r < matrices * n; r++) {
        long seen = r % n + 1, end = filled(seen, n);
        get(gradient, g, rounded, r * n, end);
        get(share, p, rounded, r * n, end);
        for (long i = seen; i < end; i++) gradient[i] = 0; /* whatever stands there, and be it not finite */
        float along = 0;
#pragma omp simd reduction(+ : along)
        for (long i = 0; i < end; i++) along += gradient[i] * share[i];
        for (long i = 0; i < end; i++) gradient[i] = (gradient[i] - along) * share[i] * scale;
        for (long i = seen; i < n; i++) gradient[i] = 0;
        put(g, rounded, r * n, gradient, n);
    }
}

#define PIECE 1024

/* y = x sigmoid(x) up. */
KERNEL swiglu(const void *x, const void *up, void *y, int rounded, long n) {
    float gate[PIECE], raised[PIECE];
    for (long at = 0; at < n; at += PIECE) {
        long m = at + PIECE < n ? PIECE : n - at;
        get(gate, x, rounded, at, m);
        get(raised, up, rounded, at, m);
        for (long i = 0; i < m; i++) raised[i] *= gate[i] / (1 + exponential(-gate[i]));
        put(y, rounded, at, raised, m);
    }
}

KERNEL swiglu_back(const void *g, const void *x, const void *up, void *dx, void *dup, int rounded, long n) {
    float gradient[PIECE], gate[PIECE], raised[PIECE];
    for (long at = 0; at < n; at += PIECE) {
        long m = at + PIECE < n ? PIECE : n - at;
        get(gradient, g, rounded, at, m);
        get(gate, x, rounded, at, m);
        get(raised, up, rounded, at, m);
        for (long i = 0; i < m; i++) {
            float open = 1 / (1 + exponential(-gate[i])), silu = gate[i] * open;
            float by_gate = gradient[i] * raised[i] * (open + silu * (1 - open));
            gradient[i] *= silu;
            gate[i] = by_gate;
        }
        put(dx, rounded, at, gate, m);
        put(dup, rounded, at, gradient, m);
    }
}

/* y = (softmax(x) - one at the target) * share, for rows [rows, n]; targets are 0 .. n - 1. */
KERNEL cross_entropy_back(const void *x, const int64_t *targets, void *y, int rounded, float share, long rows, long n) {
    float row[n];
    for (long r = 0; r < rows; r++) {
        get(row, x, rounded, r * n, n);
        float most = row[0], sum = 0;
#pragma omp simd reduction(max : most)
        for (long i = 0; i < n; i++) most = row[i] > most ? row[i] : most;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < n; i++) {
            row[i] = exponential(row[i] - most);
            sum += row[i];
        }
        float each = 1 / sum;
        for (long i = 0; i < n; i++) row[i] *= each;
        row[targets[r]] -= 1;
        for (long i = 0; i < n; i++) row[i] *= share;
        put(y, rounded, r * n, row, n);
    }
}
