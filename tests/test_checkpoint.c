/* test_checkpoint.c - weights, configurations and adapters: what is sound comes back bit for bit, what is
 * not is refused with one line, and nothing half-written is left behind. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../src/checkpoint/adapter.h"
#include "../src/checkpoint/config.h"

/* ---- helpers ------------------------------------------------------------------------------------------- */

static char folder[256]; /* of the running test, emptied before each */

static const char *in(const char *name)
{
    static char paths[4][512];
    static int at;
    at = (at + 1) % 4;
    snprintf(paths[at], sizeof paths[at], "%s/%s", folder, name);
    return paths[at];
}

static int files_in(const char *path, bool remove_them)
{
    DIR *d = opendir(path);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        char *name = bs_join(path, e->d_name);
        assert_non_null(name);
        n++;
        if (remove_them && bs_is_dir(name))
            files_in(name, true);
        if (remove_them)
            assert_int_equal(remove(name), 0);
        free(name);
    }
    closedir(d);
    return n;
}

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ck-test-XXXXXX", base ? base : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    files_in(folder, true);
    return rmdir(folder);
}

static void put_file(const char *name, const void *bytes, size_t n)
{
    oc_err err = {0};
    assert_int_equal(bs_write_file(in(name), bytes, n, &err), 0);
}

static void put_text(const char *name, const char *text) { put_file(name, text, strlen(text)); }

static bs_buf get_file(const char *name)
{
    oc_err err = {0};
    bs_buf b = {0};
    assert_int_equal(bs_read_file(&b, in(name), (size_t)1 << 30, &err), 0);
    return b;
}

static bool same_file(const char *a, const char *b)
{
    bs_buf x = get_file(a), y = get_file(b);
    bool same = x.n == y.n && !memcmp(x.p, y.p, x.n);
    bs_buf_clear(&x);
    bs_buf_clear(&y);
    return same;
}

/* The error is one line and says this. */
static void assert_says(const oc_err *err, const char *what)
{
    if (!err->text[0] || strchr(err->text, '\n') || !strstr(err->text, what))
        fail_msg("expected an error with '%s', got '%s'", what, err->text);
}

/* A file from a header and n bytes of data 0, 1, 2, ...; b is the caller's to clear. */
static bs_buf file_of(const char *header, size_t n)
{
    bs_buf b = {0};
    uint64_t length = strlen(header);
    for (int i = 0; i < 8; i++)
        bs_buf_put(&b, &(uint8_t){(uint8_t)(length >> 8 * i)}, 1, NULL);
    bs_buf_put(&b, header, length, NULL);
    for (size_t i = 0; i < n; i++)
        bs_buf_put(&b, &(uint8_t){(uint8_t)i}, 1, NULL);
    return b;
}

static void assert_refused(const void *bytes, size_t n, const char *what)
{
    oc_err err = {0};
    uint8_t *exact = malloc(n + 1); /* the sanitizer watches its end */
    memcpy(exact, bytes, n);
    ck_store *s = ck_open_bytes(exact, n, "x.safetensors", &err);
    if (s)
        fail_msg("accepted, expected an error with '%s'", what);
    assert_says(&err, what);
    assert_says(&err, "'x.safetensors'");
    free(exact);
}

static void assert_open_fails(const char *path, const char *what)
{
    oc_err err = {0};
    ck_store *s = ck_open(path, &err);
    if (s)
        fail_msg("'%s' was opened, expected an error with '%s'", path, what);
    assert_says(&err, what);
}

#define E(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* ---- types --------------------------------------------------------------------------------------------- */

static float half_value(unsigned h)
{
    int exponent = (int)(h >> 10 & 31);
    float sign = h >> 15 ? -1.0f : 1.0f, mantissa = (float)(h & 1023);
    if (exponent == 31)
        return mantissa != 0 ? NAN : sign * INFINITY;
    return exponent ? sign * ldexpf(1024 + mantissa, exponent - 25) : sign * ldexpf(mantissa, -24);
}

static void test_every_half_comes_back(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t stored = (uint16_t)h, again;
        ck_tensor t = {.name = "h", .dtype = CK_F16, .count = 1, .data = &stored};
        float f, expected = half_value(h);
        assert_int_equal(ck_to_f32(&t, 0, 1, &f, NULL), 0);
        if (isnan(expected)) {
            assert_true(isnan(f));
            continue;
        }
        assert_memory_equal(&f, &expected, sizeof f);
        assert_int_equal(ck_from_f32(CK_F16, &f, 1, &again, NULL), 0);
        assert_int_equal(again, h);
    }
}

static uint16_t stored_as(ck_dtype dtype, float f)
{
    uint16_t h;
    assert_int_equal(ck_from_f32(dtype, &f, 1, &h, NULL), 0);
    return h;
}

/* Between each pair of neighbours: just below the middle goes down, just above up, the middle to the even
 * one. */
static void test_halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) {
        float low = half_value(h), high = half_value(h + 1), middle = low + (high - low) / 2;
        assert_int_equal(stored_as(CK_F16, nextafterf(middle, 0)), h);
        assert_int_equal(stored_as(CK_F16, nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(stored_as(CK_F16, middle), h & 1 ? h + 1 : h);
        assert_int_equal(stored_as(CK_F16, -middle), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(stored_as(CK_F16, 65519.996f), 0x7bff);
    assert_int_equal(stored_as(CK_F16, 65520), 0x7c00);
    assert_int_equal(stored_as(CK_F16, -INFINITY), 0xfc00);
    assert_int_equal(stored_as(CK_F16, NAN) & 0x7e00, 0x7e00);
}

static void test_bfloats_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f7f; h += 7) {
        uint32_t middle = h << 16 | 0x8000, below = middle - 1, above = middle + 1;
        float f[3];
        memcpy(&f[0], &below, 4);
        memcpy(&f[1], &middle, 4);
        memcpy(&f[2], &above, 4);
        assert_int_equal(stored_as(CK_BF16, f[0]), h);
        assert_int_equal(stored_as(CK_BF16, f[1]), h & 1 ? h + 1 : h);
        assert_int_equal(stored_as(CK_BF16, f[2]), h + 1);
    }
    assert_int_equal(stored_as(CK_BF16, INFINITY), 0x7f80);
    assert_int_equal(stored_as(CK_BF16, NAN) & 0x7fc0, 0x7fc0);
}

static void test_numbers_are_read_from_any_address(void **state)
{
    (void)state;
    uint8_t bytes[64];
    double wide = -2.5;
    int64_t whole = -7000000000, out[2];
    float f;
    memcpy(bytes + 1, &wide, 8);
    memcpy(bytes + 9, &whole, 8);
    bytes[17] = 0xfe;
    ck_tensor t = {.name = "t", .dtype = CK_F64, .count = 1, .data = bytes + 1};
    assert_int_equal(ck_to_f32(&t, 0, 1, &f, NULL), 0);
    assert_true(f == -2.5f);
    t.dtype = CK_I64;
    t.count = 2;
    t.data = bytes + 1;
    assert_int_equal(ck_to_i64(&t, 1, 1, out, NULL), 0);
    assert_true(out[0] == whole);
    t.dtype = CK_I8;
    t.data = bytes + 17;
    assert_int_equal(ck_to_i64(&t, 0, 1, out, NULL), 0);
    assert_true(out[0] == -2);
    t.dtype = CK_U8;
    assert_int_equal(ck_to_i64(&t, 0, 1, out, NULL), 0);
    assert_true(out[0] == 254);
}

static void test_wrong_reads_are_refused(void **state)
{
    (void)state;
    float f[4] = {0};
    int64_t i[4];
    ck_tensor t = {.name = "t", .dtype = CK_F32, .count = 3, .data = f};
    oc_err err = {0};
    assert_int_equal(ck_to_f32(&t, 2, 2, f, &err), -1);
    assert_says(&err, "2 elements from 2 of 3");
    err.text[0] = 0;
    assert_int_equal(ck_to_f32(&t, -1, 1, f, &err), -1);
    err.text[0] = 0;
    assert_int_equal(ck_to_f32(&t, INT64_MAX, INT64_MAX, f, &err), -1);
    err.text[0] = 0;
    assert_int_equal(ck_to_f32(&t, 1, INT64_MAX, f, &err), -1);
    err.text[0] = 0;
    assert_int_equal(ck_to_i64(&t, 0, 1, i, &err), -1);
    assert_says(&err, "it is F32, expected an integer type");
    err.text[0] = 0;
    assert_int_equal(ck_from_f32(CK_I32, f, 1, i, &err), -1);
    assert_says(&err, "cannot store floats as I32");
}

/* ---- headers ------------------------------------------------------------------------------------------- */

/* Ten bytes of data each. */
static const struct {
    const char *header, *says;
} lies[] = {
    {"", "does not start with '{'"},
    {" {}", "does not start with '{'"},
    {"[]", "does not start with '{'"},
    {"{", "not valid JSON"},
    {"{}x", "not valid JSON"},
    {"{}", "it has 20 bytes, expected 10"},
    {"{" E("a", "U8", "[10]", "[0,10]") "," E("a", "U8", "[10]", "[0,10]") "}", "duplicate"},
    {"{" E("a", "U8", "[11]", "[0,11]") "}", "lies at bytes 0 to 11 of the data, which has 10"},
    {"{" E("a", "U8", "[10]", "[10,0]") "}", "lies at bytes 10 to 0"},
    {"{" E("a", "U8", "[10]", "[-1,9]") "}", "lies at bytes -1 to 9"},
    {"{" E("a", "U8", "[10]", "[9223372036854775797,9223372036854775807]") "}", "lies at bytes"},
    {"{" E("a", "U8", "[10]", "[0,99999999999999999999]") "}", "not valid JSON"},
    {"{" E("a", "U8", "[10]", "[0.0,10.0]") "}", "no data_offsets of two whole numbers"},
    {"{" E("a", "U8", "[10]", "[0,10,10]") "}", "no data_offsets of two whole numbers"},
    {"{" E("a", "U8", "[10]", "{}") "}", "no data_offsets of two whole numbers"},
    {"{" E("a", "F32", "[10]", "[0,10]") "}", "has 10 bytes, expected 40 for F32 [10]"},
    {"{" E("a", "U8", "[9]", "[0,10]") "}", "has 10 bytes, expected 9 for U8 [9]"},
    {"{" E("a", "U8", "[2,5.0]", "[0,10]") "}", "dimension 1 of tensor 'a' is not a whole number"},
    {"{" E("a", "U8", "[-2,-5]", "[0,10]") "}", "dimension 0 of tensor 'a' is not a whole number"},
    {"{" E("a", "U8", "10", "[0,10]") "}", "has no shape"},
    {"{" E("a", "U8", "[1,1,1,1,1,1,1,1,10]", "[0,10]") "}", "has 9 dimensions, expected at most 8"},
    {"{" E("a", "U8", "[4294967296,4294967296,4294967296]", "[0,10]") "}", "beyond any memory"},
    {"{" E("a", "F64", "[2305843009213693952]", "[0,0]") "}", "beyond any memory"},
    {"{" E("a", "U8", "[9223372036854775807,2]", "[0,10]") "}", "beyond any memory"},
    {"{" E("a", "F8_E4M3", "[10]", "[0,10]") "}", "has dtype 'F8_E4M3', expected F64, F32"},
    {"{" E("a", "f32", "[10]", "[0,10]") "}", "has dtype 'f32'"},
    {"{\"a\":{\"dtype\":1,\"shape\":[10],\"data_offsets\":[0,10]}}", "has no dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[10]}}", "has no data_offsets"},
    {"{\"a\":[0,10]}", "entry 'a' of the header is not a tensor"},
    {"{" E("", "U8", "[10]", "[0,10]") "}", "entry '' of the header is not a tensor"},
    {"{" E("a", "U8", "[6]", "[0,6]") "," E("b", "U8", "[6]", "[4,10]") "}", "tensor 'b' overlaps 'a'"},
    {"{" E("a", "U8", "[10]", "[0,10]") "," E("b", "U8", "[2]", "[3,5]") "}", "tensor 'b' overlaps 'a'"},
    {"{" E("a", "U8", "[10]", "[0,10]") "," E("b", "U8", "[10]", "[0,10]") "}", "tensor 'b' overlaps 'a'"},
    {"{" E("a", "U8", "[4]", "[0,4]") "," E("b", "U8", "[4]", "[6,10]") "}", "2 bytes before tensor 'b' belong to no tensor"},
    {"{" E("a", "U8", "[9]", "[1,10]") "}", "1 bytes before tensor 'a' belong to no tensor"},
    {"{" E("a", "U8", "[9]", "[0,9]") "}", "bytes, expected"},
    {"{\"__metadata__\":[]," E("a", "U8", "[10]", "[0,10]") "}", "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}," E("a", "U8", "[10]", "[0,10]") "}", "__metadata__ 'k' is not a string"},
    {"{\"\\u0000\":{}}", "not valid JSON"},
    {"{\"\xff\":{}}", "not valid JSON"},
};

static void test_lying_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        bs_buf b = file_of(lies[i].header, 10);
        assert_refused(b.p, b.n, lies[i].says);
        bs_buf_clear(&b);
    }
}

static const char good_header[] = "{\"__metadata__\":{\"format\":\"pt\",\"step\":\"7\"}," E("b", "F16", "[2,1]", "[4,8]") "," E(
    "none", "F32", "[0,3]", "[4,4]") "," E("scalar", "I32", "[]", "[0,4]") "," E("u", "U8", "[2]", "[8,10]") "}  ";

static void test_a_good_file_is_read(void **state)
{
    (void)state;
    bs_buf b = file_of(good_header, 10);
    oc_err err = {0};
    ck_store *s = ck_open_bytes(b.p, b.n, "good", &err);
    assert_string_equal(err.text, "");
    assert_non_null(s);
    assert_int_equal(ck_count(s), 4);
    static const char *const order[] = {"scalar", "none", "b", "u"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(ck_at(s, i)->name, order[i]);
    assert_null(ck_at(s, 4));
    const ck_tensor *t = ck_find(s, "b");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->bytes, 4);
    assert_int_equal(((const uint8_t *)t->data)[0], 4);
    assert_int_equal(ck_find(s, "scalar")->count, 1);
    assert_int_equal(ck_find(s, "none")->count, 0);
    assert_null(ck_find(s, "c"));
    assert_string_equal(ck_metadata(s, "step"), "7");
    assert_null(ck_metadata(s, "stop"));
    assert_null(ck_need(s, "c", &err));
    assert_says(&err, "cannot load 'good': tensor 'c' is missing");
    err.text[0] = 0;
    assert_int_equal(ck_check_shape(s, t, 2, (int64_t[]){2, 1}, &err), 0);
    assert_int_equal(ck_check_shape(s, t, 2, (int64_t[]){1, 2}, &err), -1);
    assert_string_equal(err.text, "cannot load 'good': tensor 'b' is [2,1], the model wants [1,2]");
    ck_close(s);
    bs_buf_clear(&b);
}

static void test_every_truncation_is_refused(void **state)
{
    (void)state;
    bs_buf b = file_of(good_header, 10);
    for (size_t n = 0; n < b.n; n++)
        assert_refused(b.p, n, "cannot load");
    bs_buf_put(&b, "", 1, NULL);
    assert_refused(b.p, b.n, "expected");
    bs_buf_clear(&b);
}

/* Any one byte changed to anything: refused with a line, or still a file whose tensors lie inside it. */
static void test_every_changed_byte_is_survived(void **state)
{
    (void)state;
    bs_buf b = file_of(good_header, 10);
    int refused = 0;
    for (size_t i = 0; i < b.n - 10; i++)
        for (int change = 1; change < 256; change += i < 8 ? 1 : 37) {
            oc_err err = {0};
            b.p[i] = (char)(b.p[i] ^ change);
            ck_store *s = ck_open_bytes(b.p, b.n, "changed", &err);
            assert_true(!s == (err.text[0] != 0));
            for (size_t k = 0; s && k < ck_count(s); k++)
                assert_true((const char *)ck_at(s, k)->data + ck_at(s, k)->bytes <= b.p + b.n);
            refused += !s;
            ck_close(s);
            b.p[i] = (char)(b.p[i] ^ change);
        }
    assert_true(refused > 2000);
    bs_buf_clear(&b);
}

static void test_huge_claims_are_refused_before_memory(void **state)
{
    (void)state;
    static const uint64_t claims[] = {100000001, 3, UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        uint8_t bytes[10] = {0};
        for (int k = 0; k < 8; k++)
            bytes[k] = (uint8_t)(claims[i] >> 8 * k);
        assert_refused(bytes, sizeof bytes, "its header claims");
    }
    oc_err err = {0}; /* a sparse file that would hold such a header */
    put_text("big.safetensors", "\001\341\365\005\0\0\0");
    assert_int_equal(truncate(in("big.safetensors"), 100000300), 0);
    assert_null(ck_open(in("big.safetensors"), &err));
    assert_says(&err, "claims 100000001 bytes, expected at most 100000000");
}

static void test_other_files_are_named(void **state)
{
    (void)state;
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    assert_refused(lfs, sizeof lfs, "Git LFS pointer");
    assert_refused("PK\3\4\0\0\10\10\0\0\0\0", 12, "is a pickle: convert it to safetensors");
    assert_refused("\200\2\212\12l\374\234F\371 j\250P\31", 14, "is a pickle");
    assert_refused("GGUF\3\0\0\0\1\1\0\0", 12, "GGUF");
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static const int64_t shapes[][CK_MAX_RANK] = {{3, 5}, {7}, {0}, {2, 2, 2, 2, 1, 1, 1, 3}, {4, 0, 2}, {1}};
static const int ranks[] = {2, 1, 0, 8, 3, 1};
enum { VARIETIES = sizeof ranks / sizeof *ranks };

/* One tensor of each type in each of the shapes above, with names that need escapes; bytes from a
 * generator. */
static ck_tensor *many_tensors(size_t *n, uint8_t *data, size_t size)
{
    ck_tensor *list = calloc(CK_DTYPES * VARIETIES, sizeof *list);
    bs_rng rng;
    size_t at = 0;
    bs_rng_seed(&rng, 5, 1);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)bs_rng_u32(&rng);
    *n = 0;
    for (int d = 0; d < CK_DTYPES; d++)
        for (int v = 0; v < VARIETIES; v++) {
            static char names[CK_DTYPES * VARIETIES][64];
            ck_tensor *t = &list[*n];
            snprintf(names[*n], 64, "w.%d\"\\/\t中😀 %d", (int)(*n * 37 % 60), (int)*n);
            t->name = names[(*n)++];
            t->dtype = (ck_dtype)d;
            t->rank = ranks[v];
            memcpy(t->shape, shapes[v], sizeof t->shape);
            t->data = data + at;
            t->count = 1;
            for (int i = 0; i < t->rank; i++)
                t->count *= t->shape[i];
            t->bytes = (size_t)t->count * ck_dtype_size(t->dtype);
            at += t->bytes;
            assert_true(at <= size);
        }
    return list;
}

static void assert_holds(const ck_store *s, const ck_tensor *list, size_t n)
{
    assert_int_equal(ck_count(s), n);
    for (size_t i = 0; i < n; i++) {
        const ck_tensor *t = ck_find(s, list[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, list[i].dtype);
        assert_int_equal(t->rank, list[i].rank);
        assert_memory_equal(t->shape, list[i].shape, (size_t)t->rank * sizeof *t->shape);
        assert_int_equal(t->bytes, list[i].bytes);
        if (t->bytes)
            assert_memory_equal(t->data, list[i].data, t->bytes);
    }
}

static void test_what_is_written_is_read(void **state)
{
    (void)state;
    static uint8_t data[8192];
    size_t n;
    oc_err err = {0};
    ck_tensor *list = many_tensors(&n, data, sizeof data);
    assert_int_equal(ck_write(in("model.safetensors"), list, n, 0, &err), 0);
    assert_int_equal(files_in(folder, false), 1);
    ck_store *s = ck_open(folder, &err);
    assert_string_equal(err.text, "");
    assert_holds(s, list, n);
    assert_string_equal(ck_metadata(s, "format"), "pt");
    for (size_t i = 0; i < n; i++) { /* wide types first: each tensor is aligned to its type */
        const ck_tensor *t = ck_at(s, i);
        assert_int_equal((uintptr_t)t->data % ck_dtype_size(t->dtype), 0);
        ck_release(s, t);
    }
    assert_holds(s, list, n); /* released pages come back from the file */
    ck_close(s);
    free(list);
}

/* Pages of mapped files that this process holds in memory. */
static long mapped_pages(void)
{
    long all = 0, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld %ld", &all, &resident, &shared), 3);
    fclose(f);
    return shared;
}

static void test_released_pages_are_let_go(void **state)
{
    (void)state;
    enum { FLOATS = 1 << 22 };
    float *x = calloc(FLOATS, sizeof *x), sum = 0;
    assert_non_null(x);
    ck_tensor t = {.name = "w", .dtype = CK_F32, .rank = 1, .shape = {FLOATS}, .data = x, .count = FLOATS, .bytes = FLOATS * sizeof *x};
    oc_err err = {0};
    assert_int_equal(ck_write(in("model.safetensors"), &t, 1, 0, &err), 0);
    free(x);
    ck_store *s = ck_open(folder, &err);
    assert_string_equal(err.text, "");
    long before = mapped_pages(), most = (long)(t.bytes / (size_t)sysconf(_SC_PAGESIZE));
    for (long i = 0; i < FLOATS; i += 256)
        sum += ((const float *)ck_at(s, 0)->data)[i];
    assert_true(sum == 0);
    assert_in_range(mapped_pages() - before, most * 9 / 10, most * 11 / 10);
    ck_release(s, ck_at(s, 0));
    assert_true(mapped_pages() - before < most / 10);
    ck_close(s);
}

static void declare(ck_writer *w, const ck_tensor *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ck_writer_add(w, list[i].name, list[i].dtype, list[i].rank, list[i].shape, NULL), 0);
}

static void test_pieces_make_the_same_file(void **state)
{
    (void)state;
    static uint8_t data[8192];
    size_t n;
    oc_err err = {0};
    ck_tensor *list = many_tensors(&n, data, sizeof data);
    assert_int_equal(ck_write(in("a"), list, n, 0, &err), 0);
    ck_writer *w = ck_writer_open(in("b"), 0, &err);
    declare(w, list, n);
    ck_writer_sort(w);
    assert_int_equal(ck_writer_start(w, &err), 0);
    for (const ck_tensor *t; (t = ck_writer_next(w));) {
        size_t i = 0, piece = 0;
        while (strcmp(list[i].name, t->name))
            i++;
        for (size_t at = 0, bytes = t->bytes; at < bytes; at += piece) {
            piece = at % 7 + 1 < bytes - at ? at % 7 + 1 : bytes - at;
            assert_int_equal(ck_writer_put(w, (const uint8_t *)list[i].data + at, piece, &err), 0);
        }
    }
    assert_false(bs_is_file(in("b")));
    assert_int_equal(ck_writer_commit(w, &err), 0);
    assert_true(same_file("a", "b"));
    assert_int_equal(ck_writer_commit(w, &err), -1);
    ck_writer_free(w);
    assert_int_equal(files_in(folder, false), 2);
    free(list);
}

static void test_given_order_and_metadata_are_kept(void **state)
{
    (void)state;
    oc_err err = {0};
    ck_writer *w = ck_writer_open(in("x.safetensors"), 0, &err);
    assert_int_equal(ck_writer_meta(w, "tier", "a\"b", &err), 0);
    assert_int_equal(ck_writer_add(w, "z", CK_U8, 1, (int64_t[]){3}, &err), 0);
    assert_int_equal(ck_writer_add(w, "a", CK_F32, 0, NULL, &err), 0);
    assert_int_equal(ck_writer_start(w, &err), 0);
    assert_string_equal(ck_writer_next(w)->name, "z");
    assert_int_equal(ck_writer_put(w, "abc", 3, &err), 0);
    assert_string_equal(ck_writer_next(w)->name, "a");
    assert_int_equal(ck_writer_put(w, "wxyz", 4, &err), 0);
    assert_null(ck_writer_next(w));
    assert_int_equal(ck_writer_commit(w, &err), 0);
    ck_writer_free(w);
    bs_buf b = get_file("x.safetensors");
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"tier\":\"a\\\"b\"}," E("z", "U8", "[3]", "[0,3]") "," E(
        "a", "F32", "[]", "[3,7]") "}";
    assert_memory_equal(b.p + 8, header, sizeof header - 1);
    assert_int_equal((b.n - 7) % 8, 0);
    assert_memory_equal(b.p + b.n - 7, "abcwxyz", 7);
    bs_buf_clear(&b);
    ck_store *s = ck_open(in("x.safetensors"), &err);
    assert_string_equal(ck_metadata(s, "tier"), "a\"b");
    ck_close(s);
}

static void test_wrong_use_of_a_writer_leaves_nothing(void **state)
{
    (void)state;
    static const int64_t two[] = {2}, huge[] = {INT64_MAX, 2}, minus[] = {-1};
    for (int i = 0; i < 10; i++) {
        oc_err err = {0};
        ck_writer *w = ck_writer_open(in("w.safetensors"), 0, &err);
        int bad = ck_writer_add(w, "a", CK_U8, 1, two, &err);
        const char *says = "";
        switch (i) {
        case 0:
            bad |= ck_writer_add(w, "a", CK_U8, 1, two, &err) | ck_writer_start(w, &err);
            says = "two tensors are named 'a'";
            break;
        case 1:
            bad |= ck_writer_add(w, "__metadata__", CK_U8, 1, two, &err);
            says = "no name for a tensor";
            break;
        case 2:
            bad |= ck_writer_add(w, "\xff", CK_U8, 1, two, &err);
            says = "no name for a tensor";
            break;
        case 3:
            bad |= ck_writer_add(w, "h", CK_U8, 2, huge, &err);
            says = "impossible shape";
            break;
        case 4:
            bad |= ck_writer_add(w, "m", CK_U8, 1, minus, &err);
            says = "impossible shape";
            break;
        case 5:
            bad |= ck_writer_put(w, "ab", 2, &err);
            says = "called before start";
            break;
        case 6:
            bad |= ck_writer_start(w, &err) | ck_writer_put(w, "abc", 3, &err);
            says = "tensor 'a' has 2 bytes, given 3";
            break;
        case 7:
            bad |= ck_writer_start(w, &err) | ck_writer_put(w, "a", 1, &err) | ck_writer_commit(w, &err);
            says = "tensor 'a' is not complete";
            break;
        case 8:
            bad |= ck_writer_start(w, &err) | ck_writer_put(w, "ab", 2, &err) | ck_writer_put(w, "c", 1, &err);
            says = "more than were declared";
            break;
        default:
            bad |= ck_writer_start(w, &err) | ck_writer_add(w, "b", CK_U8, 1, two, &err);
            says = "called after start";
            break;
        }
        assert_int_equal(bad, -1);
        assert_says(&err, says);
        if (i != 5 && i != 9)
            assert_int_equal(ck_writer_commit(w, NULL), -1); /* it failed: it stays failed */
        ck_writer_free(w);
        assert_int_equal(files_in(folder, false), 0);
    }
}

static void test_a_file_without_tensors(void **state)
{
    (void)state;
    oc_err err = {0};
    assert_int_equal(ck_write(in("none.safetensors"), NULL, 0, 0, &err), 0);
    ck_store *s = ck_open(in("none.safetensors"), &err);
    assert_non_null(s);
    assert_int_equal(ck_count(s), 0);
    assert_null(ck_find(s, "a"));
    ck_close(s);
}

static void test_thousands_of_names_are_found(void **state)
{
    (void)state;
    enum { N = 5000 };
    oc_err err = {0};
    char name[32];
    ck_writer *w = ck_writer_open(in("n.safetensors"), 0, &err);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "layers.%d.weight", i);
        assert_int_equal(ck_writer_add(w, name, CK_I32, 0, NULL, &err), 0);
    }
    assert_int_equal(ck_writer_start(w, &err), 0);
    for (int32_t i = 0; i < N; i++)
        assert_int_equal(ck_writer_put(w, &i, 4, &err), 0);
    assert_int_equal(ck_writer_commit(w, &err), 0);
    ck_writer_free(w);
    ck_store *s = ck_open(in("n.safetensors"), &err);
    for (int i = 0; i < N; i++) {
        int64_t value;
        snprintf(name, sizeof name, "layers.%d.weight", i);
        const ck_tensor *t = ck_find(s, name);
        assert_ptr_equal(t, ck_at(s, (size_t)i));
        assert_int_equal(ck_to_i64(t, 0, 1, &value, &err), 0);
        assert_int_equal(value, i);
        snprintf(name, sizeof name, "layers.%d.bias", i);
        assert_null(ck_find(s, name));
    }
    ck_close(s);
}

/* ---- shards -------------------------------------------------------------------------------------------- */

static void test_shards_hold_the_same(void **state)
{
    (void)state;
    static uint8_t data[8192];
    size_t n;
    oc_err err = {0};
    ck_tensor *list = many_tensors(&n, data, sizeof data);
    put_text("model.safetensors", "an old model");
    assert_int_equal(ck_write(in("model.safetensors"), list, n, 600, &err), 0);
    assert_false(bs_is_file(in("model.safetensors")));
    int shards = files_in(folder, false) - 1;
    char last[64];
    snprintf(last, sizeof last, "model-%05d-of-%05d.safetensors", shards, shards);
    assert_true(shards > 2 && bs_is_file(in("model-00001-of-00005.safetensors")) == (shards == 5));
    assert_true(bs_is_file(in(last)));
    ck_store *s = ck_open(folder, &err);
    assert_string_equal(err.text, "");
    assert_holds(s, list, n);
    size_t bytes[64] = {0};
    for (size_t i = 0; i < n; i++)
        bytes[ck_at(s, i)->file] += ck_at(s, i)->bytes;
    for (int i = 0; i < shards; i++)
        assert_true(bytes[i] > 0 && bytes[i] <= 600);
    ck_close(s);
    free(list);
}

/* A tensor without data after one larger than a shard needs no shard of its own. */
static void test_shards_are_never_empty(void **state)
{
    (void)state;
    const ck_tensor list[] = {
        {.name = "a", .dtype = CK_F32, .rank = 1, .shape = {16}, .data = folder},
        {.name = "b", .dtype = CK_F32, .rank = 1, .shape = {0}},
        {.name = "c", .dtype = CK_F32, .rank = 1, .shape = {2}, .data = folder},
        {.name = "d", .dtype = CK_F32, .rank = 1, .shape = {0}},
    };
    oc_err err = {0};
    assert_int_equal(ck_write(in("model.safetensors"), list, 4, 20, &err), 0);
    assert_true(bs_is_file(in("model-00002-of-00002.safetensors")));
    ck_store *s = ck_open(folder, &err);
    assert_int_equal(ck_find(s, "b")->file, 0);
    assert_int_equal(ck_find(s, "d")->file, 1);
    ck_close(s);
}

static void put_shard(const char *name, const char *tensor)
{
    ck_tensor t = {.name = tensor, .dtype = CK_U8, .rank = 1, .shape = {2}, .data = "ab"};
    oc_err err = {0};
    assert_int_equal(ck_write(in(name), &t, 1, 0, &err), 0);
}

static void assert_index_fails(const char *map, const char *says)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    put_text("model.safetensors.index.json", text);
    assert_open_fails(folder, says);
    assert_open_fails(in("model.safetensors.index.json"), says);
}

static void test_wrong_indexes_are_refused(void **state)
{
    (void)state;
    put_shard("a.safetensors", "a");
    put_shard("b.safetensors", "b");
    put_shard("a2.safetensors", "a");
    put_text("c.safetensors", "short");
    assert_index_fails("{\"a\":\"a.safetensors\",\"c\":\"d.safetensors\"}", "d.safetensors': No such file");
    assert_index_fails("{\"a\":\"a.safetensors\",\"x\":\"b.safetensors\"}", "tensor 'x' is missing, expected in 'b.safetensors'");
    assert_index_fails("{\"a\":\"b.safetensors\",\"b\":\"a.safetensors\"}", "expected in 'b.safetensors'");
    assert_index_fails("{\"a\":\"a.safetensors\",\"b\":\"a2.safetensors\"}", "tensor 'a' is also in");
    assert_index_fails("{\"a\":\"c.safetensors\"}", "too few for safetensors");
    assert_index_fails("{\"a\":\"../a.safetensors\"}", "shard of tensor 'a' is not the name");
    assert_index_fails("{\"a\":\"/etc/a.safetensors\"}", "shard of tensor 'a' is not the name");
    assert_index_fails("{\"a\":\"..safetensors\"}", "shard of tensor 'a' is not the name");
    assert_index_fails("{\"a\":\".a.safetensors\"}", "shard of tensor 'a' is not the name");
    assert_index_fails("{\"a\":\"a.bin\"}", "shard of tensor 'a' is not the name");
    assert_index_fails("{\"a\":7}", "shard of tensor 'a' is not the name");
    assert_index_fails("[]", "it has no weight_map");
    assert_index_fails("{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}", "duplicate");
    assert_index_fails("{", "not valid JSON");
}

static void test_folders_are_told_apart(void **state)
{
    (void)state;
    assert_open_fails(folder, "it holds no model.safetensors");
    assert_open_fails(in("absent.safetensors"), "No such file");
    put_text("pytorch_model.bin", "x");
    assert_open_fails(folder, "pytorch_model.bin': it is a pickle: convert it to safetensors");
    assert_open_fails(in("pytorch_model.bin"), "it is a pickle");
    assert_open_fails(in("some.pt"), "it is a pickle");
    put_shard("open_clip_model.safetensors", "open");
    ck_store *s = ck_open(folder, NULL);
    assert_non_null(ck_find(s, "open"));
    ck_close(s);
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"part\":\"part.safetensors\"}}");
    put_shard("part.safetensors", "part");
    s = ck_open(folder, NULL);
    assert_non_null(ck_find(s, "part"));
    ck_close(s);
    put_shard("model.safetensors", "whole");
    s = ck_open(folder, NULL);
    assert_non_null(ck_find(s, "whole"));
    assert_string_equal(ck_path(s), folder);
    assert_string_equal(ck_file(s, ck_find(s, "whole")), in("model.safetensors"));
    ck_close(s);
    assert_int_equal(mkdir(in("sub.safetensors"), 0777), 0);
    assert_open_fails(in("sub.safetensors"), "it holds no model.safetensors");
}

/* ---- faults -------------------------------------------------------------------------------------------- */

enum { PLENTY = 1 << 20, LITTLE = 200000 };

/* In a child: exits 0 when the write failed with one line that names the file and says why. */
static int write_plenty(uint64_t max_shard, const char *why)
{
    static uint8_t data[PLENTY];
    oc_err err = {0};
    ck_tensor list[4];
    static const char *const names[] = {"a", "b", "c", "d"};
    for (int i = 0; i < 4; i++)
        list[i] = (ck_tensor){.name = names[i], .dtype = CK_U8, .rank = 1, .shape = {PLENTY / 4}, .data = data};
    if (!ck_write(in("model.safetensors"), list, 4, max_shard, &err))
        return 1;
    return strstr(err.text, why) && strstr(err.text, "cannot write '") && !strchr(err.text, '\n') ? 0 : 2;
}

static int wait_for(pid_t child)
{
    int status;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_a_file_too_large_leaves_the_old_one(void **state)
{
    (void)state;
    put_shard("model.safetensors", "old");
    static const uint64_t sharding[] = {0, 150000, 300000};
    for (size_t i = 0; i < 3; i++) {
        pid_t child = fork();
        if (!child) {
            struct rlimit limit = {LITTLE, LITTLE};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &limit);
            _exit(write_plenty(sharding[i], "File too large"));
        }
        assert_int_equal(wait_for(child), 0);
        assert_int_equal(files_in(folder, false), 1);
    }
    ck_store *s = ck_open(folder, NULL);
    assert_non_null(ck_find(s, "old"));
    ck_close(s);
}

/* Two shards, the second too large by less than a stream's buffer: seen when it is flushed, before any is
 * renamed. */
static void test_a_late_failure_changes_no_shard(void **state)
{
    (void)state;
    put_shard("model.safetensors", "old");
    pid_t child = fork();
    if (!child) {
        static const uint8_t data[2900];
        const ck_tensor list[] = {
            {.name = "a", .dtype = CK_U8, .rank = 1, .shape = {1000}, .data = data},
            {.name = "b", .dtype = CK_U8, .rank = 1, .shape = {2900}, .data = data},
        };
        struct rlimit limit = {2000, 2000};
        oc_err err = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(ck_write(in("model.safetensors"), list, 2, 1000, &err) && strstr(err.text, "00002") ? 0 : 1);
    }
    assert_int_equal(wait_for(child), 0);
    assert_int_equal(files_in(folder, false), 1);
}

/* When renaming breaks off in the middle, new shards must not lie under the old index. */
static void test_shards_of_two_models_never_mix(void **state)
{
    (void)state;
    static const uint8_t data[64];
    const ck_tensor list[] = {
        {.name = "a", .dtype = CK_U8, .rank = 1, .shape = {64}, .data = data},
        {.name = "b", .dtype = CK_U8, .rank = 1, .shape = {64}, .data = data},
    };
    oc_err err = {0};
    assert_int_equal(ck_write(in("model.safetensors"), list, 2, 64, &err), 0);
    assert_int_equal(unlink(in("model-00002-of-00002.safetensors")), 0);
    assert_int_equal(mkdir(in("model-00002-of-00002.safetensors"), 0777), 0);
    assert_int_equal(ck_write(in("model.safetensors"), list, 2, 64, &err), -1);
    assert_says(&err, "cannot write '");
    assert_open_fails(folder, "it holds no model.safetensors");
    assert_int_equal(files_in(folder, false), 2);
}

enum { NOT_ALLOWED = 77 };

/* In a child with mounts of its own: a disk of LITTLE bytes over the folder. Only root may. */
static int write_to_small_disk(uint64_t max_shard)
{
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("small", folder, "tmpfs", 0, "size=200k"))
        return NOT_ALLOWED;
    int result = write_plenty(max_shard, "No space left");
    return result ? result : files_in(folder, false) ? 3 : 0;
}

static void test_a_full_disk_leaves_nothing(void **state)
{
    (void)state;
    static const uint64_t sharding[] = {0, 150000, 300000};
    for (size_t i = 0; i < 3; i++) {
        pid_t child = fork();
        if (!child)
            _exit(write_to_small_disk(sharding[i]));
        int result = wait_for(child);
        if (result == NOT_ALLOWED) {
            print_message("# NOT RUN: writing to a small disk that is full: mounting one takes root and mounts of its own\n");
            return;
        }
        assert_int_equal(result, 0);
    }
}

static void test_a_kill_leaves_the_old_file(void **state)
{
    (void)state;
    put_shard("model.safetensors", "old");
    pid_t child = fork();
    if (!child) {
        ck_writer *w = ck_writer_open(in("model.safetensors"), 0, NULL);
        ck_writer_add(w, "new", CK_U8, 1, (int64_t[]){2}, NULL);
        ck_writer_start(w, NULL);
        ck_writer_put(w, "ab", 2, NULL);
        raise(SIGKILL);
    }
    assert_int_equal(wait_for(child), -SIGKILL);
    ck_store *s = ck_open(folder, NULL);
    assert_non_null(s);
    assert_non_null(ck_find(s, "old"));
    ck_close(s);
}

static void test_unwritable_places_are_named(void **state)
{
    (void)state;
    oc_err err = {0};
    assert_int_equal(ck_write(in("no/such/model.safetensors"), NULL, 0, 0, &err), -1);
    assert_says(&err, "no/such/model.safetensors': No such file or directory");
    err.text[0] = 0;
    assert_int_equal(mkdir(in("taken"), 0777), 0);
    assert_int_equal(ck_write(in("taken"), NULL, 0, 0, &err), -1);
    assert_says(&err, "taken'");
    assert_int_equal(files_in(folder, false), 1);
}

static void test_nan_weights_are_found(void **state)
{
    (void)state;
    float f[12] = {0};
    f[7] = NAN;
    double wide[2] = {1, -INFINITY};
    uint16_t half[3] = {0x7bff, 0, 0x7c00}, brain[2] = {0x7f7f, 0xffc0};
    const ck_tensor list[] = {
        {.name = "f", .dtype = CK_F32, .rank = 3, .shape = {2, 2, 3}, .data = f},
        {.name = "wide", .dtype = CK_F64, .rank = 1, .shape = {2}, .data = wide},
        {.name = "half", .dtype = CK_F16, .rank = 1, .shape = {3}, .data = half},
        {.name = "brain", .dtype = CK_BF16, .rank = 1, .shape = {2}, .data = brain},
        {.name = "whole", .dtype = CK_U8, .rank = 1, .shape = {12}, .data = f},
    };
    static const char *const says[] = {"'f' holds NaN at [1,0,1]", "'wide' holds infinity at [1]", "'half' holds infinity at [2]",
                                       "'brain' holds NaN at [1]"};
    oc_err err = {0};
    assert_int_equal(ck_write(in("model.safetensors"), list, 5, 0, &err), 0);
    ck_store *s = ck_open(folder, &err);
    for (int i = 0; i < 4; i++) {
        err.text[0] = 0;
        assert_int_equal(ck_check_finite(s, ck_find(s, list[i].name), &err), -1);
        assert_says(&err, says[i]);
        assert_says(&err, in("model.safetensors"));
    }
    assert_int_equal(ck_check_finite(s, ck_find(s, "whole"), NULL), 0);
    ck_close(s);
}

/* ---- configurations ------------------------------------------------------------------------------------ */

static const char config_text[] = "{\"n\":12,\"real\":1e-5,\"whole\":3.0,\"on\":true,\"name\":\"quick_gelu\","
                                  "\"none\":null,\"text_config\":{\"hidden_size\":"
                                  "\"abc\",\"layers\":[{\"w\":1},{\"w\":-4}],\"deep\":{\"x\":99999999999}},"
                                  "\"mean\":[0.5,0.25,1],\"size\":224,"
                                  "\"list\":[1,null,\"a\"],\"a.b\":{\"c\":5}}";

static ck_config *parsed(const char *text)
{
    oc_err err = {0};
    ck_config *c = ck_config_parse(text, strlen(text), "DIR/config.json", &err);
    if (!c)
        fail_msg("%s", err.text);
    return c;
}

static void test_values_are_read_with_defaults(void **state)
{
    (void)state;
    ck_config *c = parsed(config_text);
    oc_err err = {0};
    int n = 5, absent = 6, none = 7, choice = 0, size[2] = {0};
    float real = 0, mean[3] = {0};
    double whole = 0;
    bool on = false;
    const char *name = "x";
    static const char *const acts[] = {"gelu", "quick_gelu", NULL};
    assert_int_equal(
        ck_int(c, "n", &n, 1, 100, &err) | ck_int(c, "absent", &absent, 1, 9, &err) | ck_int(c, "none", &none, 1, 9, &err), 0);
    assert_true(n == 12 && absent == 6 && none == 7);
    assert_int_equal(ck_float(c, "real", &real, 0, 1, &err) | ck_double(c, "whole", &whole, 0, 9, &err), 0);
    assert_true(real == 1e-5f && whole == 3);
    assert_int_equal(ck_bool(c, "on", &on, &err) | ck_string(c, "name", &name, &err) | ck_choice(c, "name", &choice, acts, &err),
                     0);
    assert_true(on && choice == 1);
    assert_string_equal(name, "quick_gelu");
    assert_int_equal(ck_floats(c, "mean", mean, 3, 0, 1, &err) | ck_ints(c, "size", size, 2, 1, 999, &err), 0);
    assert_true(mean[0] == 0.5f && mean[1] == 0.25f && mean[2] == 1 && size[0] == 224 && size[1] == 224);
    assert_true(ck_has(c, "n") && !ck_has(c, "none") && !ck_has(c, "absent"));
    assert_string_equal(err.text, "");
    ck_config_free(c);
}

static void test_wrong_values_are_told_with_their_path(void **state)
{
    (void)state;
    ck_config *c = parsed(config_text);
    const ck_config *text = NULL, *layers = NULL, *deep = NULL, *list = NULL;
    int n = 8;
    float f = 1, three[3];
    bool on;
    const char *name;
    static const char *const acts[] = {"gelu", "silu", NULL};
    assert_int_equal(ck_object(c, "text_config", &text, NULL) | ck_array(text, "layers", &layers, NULL) |
                         ck_object(text, "deep", &deep, NULL) | ck_array(c, "list", &list, NULL),
                     0);
#define WRONG(call, says) \
    do { \
        oc_err err = {0}; \
        assert_int_equal(call, -1); \
        assert_string_equal(err.text, "'DIR/config.json': " says); \
    } while (0)
    WRONG(ck_int(text, "hidden_size", &n, 1, 65536, &err),
          "text_config.hidden_size is \"abc\", expected an integer from 1 to 65536");
    WRONG(ck_int(ck_config_at(layers, 1), "w", &n, 0, 9, &err), "text_config.layers[1].w is -4, expected an integer from 0 to 9");
    WRONG(ck_int(deep, "x", &n, 0, 9, &err), "text_config.deep.x is 99999999999, expected an integer from 0 to 9");
    WRONG(ck_int(c, "whole", &n, 0, 9, &err), "whole is 3.0, expected an integer from 0 to 9");
    WRONG(ck_int(c, "on", &n, 0, 9, &err), "on is true, expected an integer from 0 to 9");
    WRONG(ck_float(c, "n", &f, 0, 1, &err), "n is 12, expected a number from 0 to 1");
    WRONG(ck_bool(c, "n", &on, &err), "n is 12, expected true or false");
    WRONG(ck_string(c, "n", &name, &err), "n is 12, expected a string");
    WRONG(ck_choice(c, "name", &n, acts, &err), "name is \"quick_gelu\", expected one of gelu, silu");
    WRONG(ck_object(c, "n", &text, &err), "n is 12, expected an object");
    WRONG(ck_array(c, "n", &text, &err), "n is 12, expected an array");
    WRONG(ck_floats(c, "list", three, 3, 0, 9, &err), "list[1] is null, expected a number");
    WRONG(ck_floats(c, "mean", three, 2, 0, 9, &err), "mean is [0.5,0.25,1], expected an array of 2 numbers");
    WRONG(ck_string(list, NULL, &name, &err), "list is [1,null,\"a\"], expected a string");
    WRONG(ck_config_need(text, "width", "a width", &err), "text_config.width is missing, expected a width");
    WRONG(ck_config_wrong(text, "deep", &err, "%d layers", 3), "text_config.deep is {\"x\":99999999999}, expected 3 layers");
#undef WRONG
    assert_true(n == 8 && f == 1); /* a refused value leaves the default */
    ck_config_free(c);
}

static void test_places_are_walked_in_order(void **state)
{
    (void)state;
    ck_config *c = parsed(config_text);
    static const char *const keys[] = {"n", "real", "whole", "on", "name", "none", "text_config", "mean", "size", "list", "a.b"};
    static const ck_kind kinds[] = {CK_INTEGER, CK_REAL,  CK_REAL,    CK_TRUTH, CK_STRING, CK_NULL,
                                    CK_OBJECT,  CK_ARRAY, CK_INTEGER, CK_ARRAY, CK_OBJECT};
    assert_int_equal(ck_config_size(c), 11);
    for (size_t i = 0; i < 11; i++) {
        assert_string_equal(ck_config_key(ck_config_at(c, i)), keys[i]);
        assert_int_equal(ck_config_kind(ck_config_at(c, i)), kinds[i]);
    }
    assert_null(ck_config_at(c, 11));
    assert_null(ck_get(c, "absent"));
    int five = 0;
    assert_int_equal(ck_int(ck_get(c, "a.b"), "c", &five, 0, 9, NULL), 0);
    assert_int_equal(five, 5);
    assert_ptr_equal(ck_get(c, "a.b"), ck_get(c, "a.b"));
    assert_int_equal(ck_config_size(ck_get(c, "n")), 0);
    ck_config_free(c);
}

static void test_broken_json_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",  "{",          "{\"a\":NaN}",          "{\"a\":Infinity}", "{\"a\":1,\"a\":2}",           "{\"a\":01}",
        "7", "{\"a\":1}x", "{\"a\":\"\xc3\x28\"}", "{\"a\":1e999}",    "{\"a\":99999999999999999999}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        oc_err err = {0};
        assert_null(ck_config_parse(texts[i], strlen(texts[i]), "c.json", &err));
        assert_says(&err, "cannot read 'c.json': not valid JSON");
    }
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    oc_err err = {0};
    assert_null(ck_config_parse(deep, 100000, "deep.json", &err));
    assert_says(&err, "depth");
    free(deep);
    assert_null(ck_config_read(in("absent.json"), NULL));
    char *long_one = calloc(1, (64 << 20) + 1);
    err.text[0] = 0;
    assert_null(ck_config_parse(long_one, (64 << 20) + 1, "long.json", &err));
    assert_says(&err, "cannot read 'long.json': more than 67108864 bytes");
    free(long_one);
    put_text("big.json", "{}");
    assert_int_equal(truncate(in("big.json"), (64 << 20) + 1), 0);
    err.text[0] = 0;
    assert_null(ck_config_read(in("big.json"), &err));
    assert_says(&err, "too large");
}

static void test_strings_are_escaped(void **state)
{
    (void)state;
    bs_buf b = {0};
    assert_int_equal(ck_json_string(&b, "a\"\\\n\x01\x7f中😀\xff\xed\xa0\x80/", NULL), 0);
    assert_string_equal(b.p, "\"a\\\"\\\\\\n\\u0001\x7f中😀\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd/\"");
    bs_buf_clear(&b);
    assert_true(ck_is_utf8("é中😀") && !ck_is_utf8("\xc0\x80") && !ck_is_utf8("\xf4\x90\x80\x80") && !ck_is_utf8("\xe4\xb8"));
}

/* ---- adapters ------------------------------------------------------------------------------------------ */

static ck_adapter_config adapter_config(void)
{
    ck_adapter_config c;
    assert_int_equal(ck_adapter_config_init(&c, NULL), 0);
    return c;
}

static void set(char **field, const char *text)
{
    free(*field);
    *field = bs_strdup(text);
}

static void add(ck_names *names, const char *name) { assert_int_equal(ck_names_add(names, name, NULL), 0); }

static void test_a_list_targets_ends_of_paths(void **state)
{
    (void)state;
    ck_adapter_config c = adapter_config();
    add(&c.target_modules, "q_proj");
    add(&c.target_modules, "mlp.fc1");
    add(&c.target_modules, "text_model.head");
    assert_true(ck_adapter_targets(&c, "text_model.encoder.layers.0.self_attn.q_proj"));
    assert_true(ck_adapter_targets(&c, "q_proj"));
    assert_true(ck_adapter_targets(&c, "x.mlp.fc1"));
    assert_true(ck_adapter_targets(&c, "text_model.head"));
    assert_false(ck_adapter_targets(&c, "x.eq_proj"));
    assert_false(ck_adapter_targets(&c, "x.q_proj.y"));
    assert_false(ck_adapter_targets(&c, "x.fc1"));
    assert_false(ck_adapter_targets(&c, ""));
    add(&c.exclude_modules, "3.self_attn.q_proj");
    assert_false(ck_adapter_targets(&c, "layers.3.self_attn.q_proj"));
    assert_true(ck_adapter_targets(&c, "layers.13.self_attn.q_proj"));
    add(&c.modules_to_save, "head");
    assert_false(ck_adapter_targets(&c, "text_model.head"));
    assert_true(ck_adapter_saves(&c, "text_model.head") && ck_adapter_saves(&c, "head") && ck_adapter_saves(&c, "a.head.b"));
    assert_true(ck_adapter_saves(&c, "ahead") && ck_adapter_saves(&c, "ahead.b")); /* PEFT's rule, whatever one may think of it */
    assert_false(ck_adapter_saves(&c, "head2") || ck_adapter_saves(&c, "x.heads.y"));
    ck_adapter_config_clear(&c);
}

static void test_layers_narrow_a_list(void **state)
{
    (void)state;
    static int layers[] = {1, 12};
    ck_adapter_config c = adapter_config();
    add(&c.target_modules, "q");
    add(&c.target_modules, "text.layers.0.q");
    c.layers_to_transform = layers;
    c.layers_n = 2;
    assert_true(ck_adapter_targets(&c, "text.layers.1.q"));
    assert_true(ck_adapter_targets(&c, "text.layers.12.q"));
    assert_false(ck_adapter_targets(&c, "text.layers.2.q"));
    assert_true(ck_adapter_targets(&c, "text.layers.0.q")); /* a whole path is meant as it stands */
    assert_false(ck_adapter_targets(&c, "text.q"));
    assert_true(ck_adapter_targets(&c, "text.layers.1.experts.0.q")); /* the first number is the layer */
    assert_true(ck_adapter_targets(&c, "vision.blocks.1.q"));
    add(&c.layers_pattern, "layers");
    assert_true(ck_adapter_targets(&c, "text.layers.1.q"));
    assert_false(ck_adapter_targets(&c, "vision.blocks.1.q"));
    c.layers_to_transform = NULL;
    ck_adapter_config_clear(&c);
}

static void test_a_regular_expression_matches_whole_paths(void **state)
{
    (void)state;
    ck_adapter_config c = adapter_config();
    set(&c.target_regex, ".*text_decoder.*\\.(query|value)");
    assert_true(ck_adapter_targets(&c, "text_decoder.layer.0.query"));
    assert_false(ck_adapter_targets(&c, "text_decoder.layer.0.query.x"));
    assert_false(ck_adapter_targets(&c, "text_encoder.layer.0.query"));
    set(&c.exclude_regex, ".*\\.0\\..*");
    assert_false(ck_adapter_targets(&c, "text_decoder.layer.0.query"));
    assert_true(ck_adapter_targets(&c, "text_decoder.layer.10.query"));
    set(&c.target_regex, "(a+)+b"); /* runs away on many a: an end, not a hang */
    assert_false(ck_adapter_targets(&c, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"));
    free(c.target_regex);
    c.target_regex = NULL;
    c.all_linear = true;
    assert_true(ck_adapter_targets(&c, "anything"));
    assert_false(ck_adapter_targets(&c, "a.0.b"));
    ck_adapter_config_clear(&c);
}

static void test_ranks_and_scales_follow_patterns(void **state)
{
    (void)state;
    ck_adapter_config c = adapter_config();
    c.rank = 4;
    c.alpha = 8;
    assert_int_equal(ck_patterns_add(&c.rank_pattern, "layers.1.self_attn.v_proj", 6, NULL), 0);
    assert_int_equal(ck_patterns_add(&c.rank_pattern, "q_proj", 2, NULL), 0);
    assert_int_equal(ck_patterns_add(&c.rank_pattern, "layers\\.[01]\\.k_proj", 9, NULL), 0);
    assert_int_equal(ck_patterns_add(&c.rank_pattern, "^o_proj", 16, NULL), 0);
    assert_int_equal(ck_patterns_add(&c.alpha_pattern, "o_proj", 3, NULL), 0);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.1.self_attn.v_proj"), 6);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.2.self_attn.v_proj"), 4);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.2.self_attn.q_proj"), 2);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.2.self_attn.eq_proj"), 4);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.1.k_proj"), 9);
    assert_int_equal(ck_adapter_rank(&c, "model.layers.2.k_proj"), 4);
    assert_int_equal(ck_adapter_rank(&c, "model.o_proj"), 4);
    assert_int_equal(ck_adapter_rank(&c, "o_proj"), 16);
    assert_true(ck_adapter_scale(&c, "model.o_proj") == 0.75);
    assert_true(ck_adapter_scale(&c, "model.q_proj") == 4);
    c.rslora = true;
    assert_true(ck_adapter_scale(&c, "model.x") == 4);
    assert_true(fabs(ck_adapter_scale(&c, "model.q_proj") - 8 / sqrt(2)) < 1e-15);
    ck_adapter_config_clear(&c);
}

/* Two adapted modules, one of them DoRA-less, a saved head: tensors as ck_adapter_write takes them. */
static const float numbers[64] = {1, 2, 3, 4, 5};
static const ck_tensor factors[] = {
    {.name = "enc.0.q.lora_A.weight", .dtype = CK_F32, .rank = 2, .shape = {2, 5}, .data = numbers},
    {.name = "enc.0.q.lora_B.weight", .dtype = CK_F32, .rank = 2, .shape = {3, 2}, .data = numbers + 1},
    {.name = "enc.0.conv.lora_A.weight", .dtype = CK_F32, .rank = 4, .shape = {2, 3, 2, 2}, .data = numbers + 2},
    {.name = "enc.0.conv.lora_B.weight", .dtype = CK_F32, .rank = 4, .shape = {4, 2, 1, 1}, .data = numbers + 3},
    {.name = "emb.lora_embedding_A", .dtype = CK_F32, .rank = 2, .shape = {2, 7}, .data = numbers},
    {.name = "emb.lora_embedding_B", .dtype = CK_F32, .rank = 2, .shape = {4, 2}, .data = numbers},
    {.name = "head.weight", .dtype = CK_F32, .rank = 2, .shape = {4, 4}, .data = numbers},
    {.name = "enc.0.q.base_layer.bias", .dtype = CK_F32, .rank = 1, .shape = {3}, .data = numbers},
};
enum { FACTORS = sizeof factors / sizeof *factors };

static ck_adapter_config full_config(void)
{
    ck_adapter_config c = adapter_config();
    c.rank = 2;
    c.alpha = 3;
    c.dropout = 0.05;
    set(&c.bias, "lora_only");
    add(&c.target_modules, "q");
    add(&c.target_modules, "conv");
    add(&c.target_modules, "emb");
    add(&c.modules_to_save, "head");
    assert_int_equal(ck_patterns_add(&c.alpha_pattern, "conv", 0.1, NULL), 0);
    set(&c.base_model, "a \"model\"");
    set(&c.base_class, "CLIPModel");
    set(&c.base_library, "transformers.models.clip.modeling_clip");
    return c;
}

static void test_an_adapter_comes_back(void **state)
{
    (void)state;
    ck_adapter_config c = full_config();
    oc_err err = {0};
    ck_adapter a;
    assert_int_equal(ck_adapter_write(in("adapter"), &c, factors, FACTORS, &err), 0);
    assert_int_equal(files_in(in("adapter"), false), 2);
    assert_int_equal(ck_adapter_open(&a, in("adapter"), &err), 0);
    assert_int_equal(a.targets_n, 3);
    const ck_adapter_target *q = ck_adapter_find(&a, "enc.0.q"), *conv = ck_adapter_find(&a, "enc.0.conv");
    const ck_adapter_target *emb = ck_adapter_find(&a, "emb");
    assert_true(q && conv && emb && !ck_adapter_find(&a, "enc.0"));
    assert_true(q->rank == 2 && q->scale == 1.5 && conv->scale == 0.05);
    assert_memory_equal(q->b->data, numbers + 1, 24);
    assert_memory_equal(conv->a->data, numbers + 2, 96);
    assert_true(!emb->a && emb->embedding_a->shape[1] == 7 && emb->embedding_b->shape[0] == 4);
    assert_int_equal(a.saved_n, 2);
    assert_string_equal(a.saved[0].name, "enc.0.q.bias");
    assert_string_equal(a.saved[1].name, "head.weight");
    assert_true(a.config.dropout == 0.05 && a.config.alpha == 3 && a.config.alpha_pattern.p[0].value == 0.1);
    assert_string_equal(a.config.base_model, "a \"model\"");
    assert_string_equal(a.config.base_class, "CLIPModel");
    assert_string_equal(a.config.target_modules.p[2], "emb");
    assert_int_equal(ck_adapter_write(in("again"), &a.config, factors, FACTORS, &err), 0);
    assert_true(same_file("adapter/adapter_config.json", "again/adapter_config.json"));
    assert_true(same_file("adapter/adapter_model.safetensors", "again/adapter_model.safetensors"));
    ck_adapter_close(&a);
    ck_adapter_config_clear(&c);
}

/* What PEFT's own loader looks for: every field of its LoraConfig, in alphabetical order. */
static void test_the_written_config_has_every_field(void **state)
{
    (void)state;
    static const char *const keys[] = {"alora_invocation_tokens",
                                       "alpha_pattern",
                                       "arrow_config",
                                       "auto_mapping",
                                       "base_model_name_or_path",
                                       "bias",
                                       "corda_config",
                                       "ensure_weight_tying",
                                       "eva_config",
                                       "exclude_modules",
                                       "fan_in_fan_out",
                                       "inference_mode",
                                       "init_lora_weights",
                                       "kasa_config",
                                       "layer_replication",
                                       "layers_pattern",
                                       "layers_to_transform",
                                       "loftq_config",
                                       "lora_alpha",
                                       "lora_bias",
                                       "lora_dropout",
                                       "lora_ga_config",
                                       "megatron_config",
                                       "megatron_core",
                                       "modules_to_save",
                                       "monteclora_config",
                                       "peft_type",
                                       "peft_version",
                                       "qalora_group_size",
                                       "r",
                                       "rank_pattern",
                                       "revision",
                                       "target_modules",
                                       "target_parameters",
                                       "task_type",
                                       "trainable_token_indices",
                                       "use_bdlora",
                                       "use_dora",
                                       "use_qalora",
                                       "use_rslora",
                                       "velora_config"};
    ck_adapter_config c = full_config();
    c.layers_to_transform = malloc(2 * sizeof(int));
    memcpy(c.layers_to_transform, (int[]){0, 3}, 2 * sizeof(int));
    c.layers_n = 2;
    add(&c.layers_pattern, "layers");
    assert_int_equal(ck_adapter_write(in("adapter"), &c, factors, FACTORS, NULL), 0);
    ck_config *file = ck_config_read(in("adapter/adapter_config.json"), NULL);
    assert_int_equal(ck_config_size(file), sizeof keys / sizeof *keys);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_string_equal(ck_config_key(ck_config_at(file, i)), keys[i]);
    int layers[2];
    assert_int_equal(ck_ints(file, "layers_to_transform", layers, 2, 0, 9, NULL), 0);
    assert_true(layers[0] == 0 && layers[1] == 3);
    assert_int_equal(ck_config_kind(ck_get(file, "r")), CK_INTEGER);
    assert_int_equal(ck_config_kind(ck_get(file, "lora_alpha")), CK_INTEGER);
    ck_config_free(file);
    ck_adapter_config_clear(&c);
}

/* The first `n` of some tensors and the config's changes; opened strictly. */
static void assert_adapter_fails(const ck_adapter_config *c, const ck_tensor *tensors, size_t n, const char *says)
{
    oc_err err = {0};
    ck_adapter a;
    if (ck_adapter_write(in("bad"), c, tensors, n, &err))
        fail_msg("%s", err.text);
    assert_int_equal(ck_adapter_open(&a, in("bad"), &err), -1);
    assert_says(&err, says);
    assert_null(a.store);
}

static ck_tensor changed(const char *name, int rank, int64_t d0, int64_t d1)
{
    return (ck_tensor){.name = name, .dtype = CK_F32, .rank = rank, .shape = {d0, d1}, .data = numbers};
}

static void test_adapters_that_do_not_add_up_are_refused(void **state)
{
    (void)state;
    ck_adapter_config c = full_config();
    ck_tensor list[4] = {factors[0], factors[1]};
    assert_adapter_fails(&c, list, 1, "module 'enc.0.q' has not one factor A and one factor B");
    assert_adapter_fails(&c, list, 0, "it holds no factors");
    list[1] = changed("enc.0.q.lora_B.weight", 2, 3, 4);
    assert_adapter_fails(&c, list, 2, "'base_model.model.enc.0.q.lora_B.weight' is [3,4], expected [out,r] for rank 2");
    list[1] = changed("enc.0.q.lora_B.weight", 1, 6, 0);
    assert_adapter_fails(&c, list, 2, "is [6], expected [out,r]");
    list[1] = factors[1];
    list[0] = changed("enc.0.q.lora_A.weight", 2, 3, 5);
    assert_adapter_fails(&c, list, 2, "is [3,5], expected [r,in] for rank 2");
    list[0] = factors[0];
    list[0].dtype = CK_I32;
    assert_adapter_fails(&c, list, 2, "is I32, expected a float type");
    list[0] = factors[0];
    list[2] = changed("enc.0.k.lora_A.weight", 2, 2, 5);
    assert_adapter_fails(&c, list, 3, "key 'base_model.model.enc.0.k.lora_A.weight' belongs to nothing");
    list[2] = changed("enc.0.q.weight", 2, 3, 5);
    assert_adapter_fails(&c, list, 3, "key 'base_model.model.enc.0.q.weight' belongs to nothing");
    list[2] = changed("enc.0.q.lora_magnitude_vector", 1, 3, 0);
    assert_adapter_fails(&c, list, 3, "lora_magnitude_vector' belongs to nothing");
    list[2] = changed("enc.0.q.lora_B.bias", 1, 3, 0);
    assert_adapter_fails(&c, list, 3, "lora_B.bias' belongs to nothing");
    list[2] = changed("enc.0.q.lora_embedding_A", 2, 2, 5);
    assert_adapter_fails(&c, list, 3, "has not one factor A");
    list[0] = factors[2];
    list[1] = factors[3];
    list[1].shape[2] = 2;
    assert_adapter_fails(&c, list, 2, "is [4,2,2,1], expected [out,r]");
    list[1] = changed("enc.0.conv.lora_B.weight", 2, 4, 2);
    assert_adapter_fails(&c, list, 2, "the factors of module 'enc.0.conv' have 4 and 2 dimensions");
    list[0] = factors[0];
    list[1] = factors[1];
    c.dora = true;
    assert_adapter_fails(&c, list, 2, "has no lora_magnitude_vector");
    list[2] = changed("enc.0.q.lora_magnitude_vector", 1, 4, 0);
    assert_adapter_fails(&c, list, 3, "expected 3 floats");
    ck_adapter_config_clear(&c);
}

static void test_dora_and_biases_are_read(void **state)
{
    (void)state;
    ck_adapter_config c = full_config();
    oc_err err = {0};
    ck_adapter a;
    c.dora = c.lora_bias = true;
    const ck_tensor list[] = {factors[0], factors[1], changed("enc.0.q.lora_magnitude_vector", 1, 3, 0),
                              changed("enc.0.q.lora_B.bias", 1, 3, 0)};
    assert_int_equal(ck_adapter_write(in("dora"), &c, list, 4, &err), 0);
    assert_int_equal(ck_adapter_open(&a, in("dora"), &err), 0);
    assert_true(a.config.dora && a.config.lora_bias);
    assert_int_equal(a.targets[0].magnitude->count, 3);
    assert_int_equal(a.targets[0].b_bias->count, 3);
    ck_adapter_close(&a);
    ck_adapter_config_clear(&c);
}

static void test_unplaced_keys_can_be_listed(void **state)
{
    (void)state;
    ck_adapter_config c = full_config();
    oc_err err = {0};
    ck_adapter a;
    const ck_tensor list[] = {factors[0], factors[1], changed("other.lora_A.weight", 2, 2, 2), changed("x", 1, 1, 0)};
    assert_int_equal(ck_adapter_write(in("lax"), &c, list, 4, &err), 0);
    assert_int_equal(ck_adapter_open_lax(&a, in("lax"), &err), 0);
    assert_int_equal(a.unplaced.n, 2);
    assert_string_equal(a.unplaced.p[0], "base_model.model.other.lora_A.weight");
    assert_string_equal(a.unplaced.p[1], "base_model.model.x");
    assert_int_equal(a.targets_n, 1);
    ck_adapter_close(&a);
    ck_adapter_config_clear(&c);
}

static const struct {
    const char *text, *says;
} bad_configs[] = {
    {"[]", "it is not a JSON object"},
    {"{}", "peft_type is missing, expected \"LORA\""},
    {"{\"peft_type\":\"IA3\",\"r\":1}", "peft_type is \"IA3\", expected one of LORA"},
    {"{\"peft_type\":\"LORA\",\"target_modules\":[\"q\"]}", "r is missing"},
    {"{\"peft_type\":\"LORA\",\"r\":0,\"target_modules\":[\"q\"]}", "r is 0, expected an integer from 1"},
    {"{\"peft_type\":\"LORA\",\"r\":4}", "target_modules names no module"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":\"a(b\"}", "target_modules 'a(b' is no regular expression"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\",7]}", "target_modules[1] is 7, expected a string"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\",null]}", "target_modules[1] is null, expected a name"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":7}", "target_modules is 7, expected a string or an array of strings"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":\"q\",\"layers_to_transform\":[1]}", "needs target_modules as a list"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"layers_to_transform\":[-1]}", "layers_to_transform[0] is -1"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"rank_pattern\":{\"q\":0.5}}", "rank_pattern.q is 0.5"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"rank_pattern\":{\"(\":2}}", "rank_pattern '(' is no regular"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"alpha_pattern\":{\"q\":null}}", "alpha_pattern.q is null"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"bias\":\"some\"}", "bias is some"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"lora_dropout\":1.5}", "lora_dropout is 1.5"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"init_lora_weights\":\"pissa\"}",
     "others change the base model"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"use_qalora\":true}",
     "use_qalora is true, expected null: it is not supported"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"layer_replication\":[[0,4]]}", "layer_replication is [[0,4]]"},
    {"{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"something_new\":3}", "something_new is 3"},
};

static void test_wrong_adapter_configs_are_refused(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in("bad"), 0777), 0);
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        oc_err err = {0};
        ck_adapter a;
        put_text("bad/adapter_config.json", bad_configs[i].text);
        assert_int_equal(ck_adapter_open(&a, in("bad"), &err), -1);
        assert_says(&err, bad_configs[i].says);
        assert_says(&err, "adapter_config.json'");
    }
    oc_err err = {0};
    ck_adapter a;
    put_text("bad/adapter_config.json", "{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q\"],\"enable_lora\":null}");
    put_text("bad/adapter_model.bin", "");
    assert_int_equal(ck_adapter_open(&a, in("bad"), &err), -1);
    assert_says(&err, "adapter_model.bin': it is a pickle: convert it to safetensors");
    err.text[0] = 0;
    assert_int_equal(ck_adapter_open(&a, in("absent"), &err), -1);
    assert_says(&err, "absent/adapter_config.json': No such file");
}

/* Older adapters: fewer fields, one layer as a number, one pattern as a string, factors of a whole-path
 * target. */
static void test_an_old_adapter_is_read(void **state)
{
    (void)state;
    oc_err err = {0};
    ck_adapter a;
    static const char config[] =
        "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":16,\"target_modules\":[\"q\"],"
        "\"layers_to_transform\":0,\"layers_pattern\":\"enc\",\"merge_weights\":false,\"enable_lora\":null}";
    bs_buf w = file_of("{" E("base_model.model.m.enc.0.q.lora_A.weight", "F16", "[2,3]",
                             "[0,12]") "," E("base_model.model.m.enc.0.q.lora_B.weight", "BF16", "[1,2]", "[12,16]") "}",
                       16);
    assert_int_equal(ck_adapter_open_bytes(&a, config, sizeof config - 1, w.p, w.n, &err), 0);
    assert_int_equal(a.targets_n, 1);
    assert_true(a.targets[0].scale == 8 && a.targets[0].a->dtype == CK_F16);
    ck_adapter_close(&a);
    bs_buf_clear(&w);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make_folder, drop_folder)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        T(test_every_half_comes_back),
        T(test_halves_round_to_nearest_even),
        T(test_bfloats_round_to_nearest_even),
        T(test_numbers_are_read_from_any_address),
        T(test_wrong_reads_are_refused),
        T(test_lying_headers_are_refused),
        T(test_a_good_file_is_read),
        T(test_every_truncation_is_refused),
        T(test_every_changed_byte_is_survived),
        T(test_huge_claims_are_refused_before_memory),
        T(test_other_files_are_named),
        T(test_what_is_written_is_read),
        T(test_released_pages_are_let_go),
        T(test_pieces_make_the_same_file),
        T(test_given_order_and_metadata_are_kept),
        T(test_wrong_use_of_a_writer_leaves_nothing),
        T(test_a_file_without_tensors),
        T(test_thousands_of_names_are_found),
        T(test_shards_hold_the_same),
        T(test_shards_are_never_empty),
        T(test_wrong_indexes_are_refused),
        T(test_folders_are_told_apart),
        T(test_a_file_too_large_leaves_the_old_one),
        T(test_a_late_failure_changes_no_shard),
        T(test_shards_of_two_models_never_mix),
        T(test_a_full_disk_leaves_nothing),
        T(test_a_kill_leaves_the_old_file),
        T(test_unwritable_places_are_named),
        T(test_nan_weights_are_found),
        T(test_values_are_read_with_defaults),
        T(test_wrong_values_are_told_with_their_path),
        T(test_places_are_walked_in_order),
        T(test_broken_json_is_refused),
        T(test_strings_are_escaped),
        T(test_a_list_targets_ends_of_paths),
        T(test_layers_narrow_a_list),
        T(test_a_regular_expression_matches_whole_paths),
        T(test_ranks_and_scales_follow_patterns),
        T(test_an_adapter_comes_back),
        T(test_the_written_config_has_every_field),
        T(test_adapters_that_do_not_add_up_are_refused),
        T(test_dora_and_biases_are_read),
        T(test_unplaced_keys_can_be_listed),
        T(test_wrong_adapter_configs_are_refused),
        T(test_an_old_adapter_is_read),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
