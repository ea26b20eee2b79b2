/* Vectors as wide as the processor's, by GCC's vector extensions. Arithmetic is IEEE's except that
   products and sums may be fused. Work goes to threads in a fixed order, so that a number of threads
   gives the same numbers again. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__) || !defined(__GNUC__)
#error "written for GCC, whose OpenMP threads are those that torch runs on"
#endif

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float floats __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH), aligned(4)));

#define UNROLL _Pragma("GCC unroll 8")
#define INLINE static inline __attribute__((always_inline))

INLINE floats load(const float *from) { return *(const floats *)from; }
INLINE void store(float *to, floats x) { *(floats *)to = x; }

/* 2^x for x <= 0, to a unit in the last place; 0 below 2^-126, and what is not a number stays so. */
INLINE floats power(floats x)
{
    const floats shift = (floats){0} + 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    ints tiny = x < -126.0f;
    x = (floats)((ints)x & ~tiny);
    floats rounded = x + shift;
    floats rest = x - (rounded - shift);
    floats scale = (floats)(((ints)rounded - (ints)shift + 127) << 23);
    /* Taylor's series of 2^rest, |rest| <= 1/2, its last terms fitted (Cephes, exp2f) */
    floats sum = rest * 1.535336188319500e-4f + 1.339887440266574e-3f;
    sum = sum * rest + 9.618437357674640e-3f;
    sum = sum * rest + 5.550332471162809e-2f;
    sum = sum * rest + 2.402264791363012e-1f;
    sum = sum * rest + 6.931472028550421e-1f;
    sum = sum * rest + 1.0f;
    return (floats)((ints)(sum * scale) & ~tiny);
}

INLINE float total(floats x)
{
    float sum = 0;
    for (int j = 0; j < WIDTH; j++) sum += x[j];
    return sum;
}
