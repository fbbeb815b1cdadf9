/* safetensors_dtype.c - the types of numbers on disk, and floats from and to them.
 *
 * Plain and exact: the fast conversions of whole models are the kernels'. Data in a file may lie at any
 * address, so every element goes through memcpy. */
#include <math.h>
#include <string.h>

#include "safetensors.h"

static const struct {
    const char *name;
    uint8_t size;
    bool is_float;
} dtypes[CK_DTYPES] = {
    [CK_F32] = {"F32", 4, true},  [CK_F16] = {"F16", 2, true},    [CK_BF16] = {"BF16", 2, true}, [CK_F64] = {"F64", 8, true},
    [CK_I64] = {"I64", 8, false}, [CK_I32] = {"I32", 4, false},   [CK_I16] = {"I16", 2, false},  [CK_I8] = {"I8", 1, false},
    [CK_U8] = {"U8", 1, false},   [CK_BOOL] = {"BOOL", 1, false},
};

size_t ck_dtype_size(ck_dtype dtype) { return dtypes[dtype].size; }

const char *ck_dtype_name(ck_dtype dtype) { return dtypes[dtype].name; }

bool ck_dtype_is_float(ck_dtype dtype) { return dtypes[dtype].is_float; }

const char *ck_shape_text(int rank, const int64_t *shape, char text[CK_SHAPE_TEXT])
{
    size_t at = 0;
    text[at++] = '[';
    for (int i = 0; i < rank && i < CK_MAX_RANK; i++)
        at += (size_t)snprintf(text + at, CK_SHAPE_TEXT - at, "%s%lld", i ? "," : "", (long long)shape[i]);
    snprintf(text + at, CK_SHAPE_TEXT - at, "]");
    return text;
}

static float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31)
        return float_of_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent)
        return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float small = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact in a float */
    return sign ? -small : small;
}

static uint16_t f16_of_f32(float f)
{
    uint32_t bits = bits_of_float(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x1ff));
    if (rest >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) { /* below 2^-14: adding 0.5 lets the float unit round to units of 2^-24 */
        float shifted = float_of_bits(rest) + 0.5f;
        return (uint16_t)(sign | (bits_of_float(shifted) - 0x3f000000));
    }
    rest += 0xfff + (rest >> 13 & 1);
    return (uint16_t)(sign | (rest - 0x38000000) >> 13);
}

static uint16_t bf16_of_f32(float f)
{
    uint32_t bits = bits_of_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static int check_range(const ck_tensor *t, int64_t first, int64_t n, oc_err *err)
{
    if (first >= 0 && n >= 0 && first <= t->count && n <= t->count - first)
        return 0;
    return bs_err(err, "cannot read tensor '%s': %lld elements from %lld of %lld", t->name, (long long)n, (long long)first,
                  (long long)t->count);
}

static uint16_t u16_at(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float f32_at(const uint8_t *p, ck_dtype dtype)
{
    double wide;
    float f;
    switch (dtype) {
    case CK_F16: return f32_of_f16(u16_at(p));
    case CK_BF16: return float_of_bits((uint32_t)u16_at(p) << 16);
    case CK_F64: memcpy(&wide, p, sizeof wide); return (float)wide;
    default: memcpy(&f, p, sizeof f); return f;
    }
}

int ck_to_f32(const ck_tensor *t, int64_t first, int64_t n, float *out, oc_err *err)
{
    if (!ck_dtype_is_float(t->dtype))
        return bs_err(err, "cannot read tensor '%s': it is %s, expected a float type", t->name, ck_dtype_name(t->dtype));
    if (check_range(t, first, n, err))
        return -1;
    if (!n)
        return 0;
    size_t size = ck_dtype_size(t->dtype);
    const uint8_t *p = (const uint8_t *)t->data + (size_t)first * size;
    if (t->dtype == CK_F32)
        memcpy(out, p, (size_t)n * size);
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = f32_at(p + (size_t)i * size, t->dtype);
    return 0;
}

static int64_t i64_at(const uint8_t *p, ck_dtype dtype)
{
    int64_t wide;
    int32_t half;
    switch (dtype) {
    case CK_I64: memcpy(&wide, p, sizeof wide); return wide;
    case CK_I32: memcpy(&half, p, sizeof half); return half;
    case CK_I16: return (int16_t)u16_at(p);
    case CK_I8: return (int8_t)*p;
    case CK_BOOL: return *p != 0;
    default: return *p;
    }
}

int ck_to_i64(const ck_tensor *t, int64_t first, int64_t n, int64_t *out, oc_err *err)
{
    if (ck_dtype_is_float(t->dtype))
        return bs_err(err, "cannot read tensor '%s': it is %s, expected an integer type", t->name, ck_dtype_name(t->dtype));
    if (check_range(t, first, n, err))
        return -1;
    size_t size = ck_dtype_size(t->dtype);
    for (int64_t i = 0; i < n; i++)
        out[i] = i64_at((const uint8_t *)t->data + (size_t)(first + i) * size, t->dtype);
    return 0;
}

static void put_f32(uint8_t *p, ck_dtype dtype, float f)
{
    double wide = f;
    uint16_t half = dtype == CK_F16 ? f16_of_f32(f) : bf16_of_f32(f);
    if (dtype == CK_F32)
        memcpy(p, &f, sizeof f);
    else if (dtype == CK_F64)
        memcpy(p, &wide, sizeof wide);
    else
        memcpy(p, &half, sizeof half);
}

int ck_from_f32(ck_dtype dtype, const float *in, int64_t n, void *out, oc_err *err)
{
    if (!ck_dtype_is_float(dtype))
        return bs_err(err, "cannot store floats as %s", ck_dtype_name(dtype));
    size_t size = ck_dtype_size(dtype);
    for (int64_t i = 0; i < n; i++)
        put_f32((uint8_t *)out + (size_t)i * size, dtype, in[i]);
    return 0;
}

/* Asks the bits: all ones in the exponent, whatever the optimiser believes of floats. */
static bool is_finite_at(const uint8_t *p, ck_dtype dtype)
{
    uint64_t wide;
    if (dtype == CK_F64) {
        memcpy(&wide, p, sizeof wide);
        return (~wide & (uint64_t)0x7ff << 52) != 0;
    }
    if (dtype == CK_F16)
        return (u16_at(p) & 0x7c00) != 0x7c00;
    return (u16_at(dtype == CK_F32 ? p + 2 : p) & 0x7f80) != 0x7f80;
}

int ck_check_finite(const ck_store *s, const ck_tensor *t, oc_err *err)
{
    if (!ck_dtype_is_float(t->dtype))
        return 0;
    size_t size = ck_dtype_size(t->dtype);
    const uint8_t *p = t->data;
    int64_t at = 0;
    while (at < t->count && is_finite_at(p + (size_t)at * size, t->dtype))
        at++;
    if (at == t->count)
        return 0;
    int64_t place[CK_MAX_RANK], rest = at;
    for (int i = t->rank - 1; i >= 0; i--) {
        place[i] = rest % t->shape[i];
        rest /= t->shape[i];
    }
    char text[CK_SHAPE_TEXT];
    return bs_err(err, "cannot load '%s': tensor '%s' holds %s at %s, expected finite numbers", ck_file(s, t), t->name,
                  isnan(f32_at(p + (size_t)at * size, t->dtype)) ? "NaN" : "infinity", ck_shape_text(t->rank, place, text));
}
