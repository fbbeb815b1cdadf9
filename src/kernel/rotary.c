/* rotary.c - the angles of rotary positions (Su et al. 2021), in double: a position of many thousands times a frequency loses a float's last
 * bits. sin, cos and the powers are ours, as libm picks its code by CPU. */
#include "kernel.h"
#include "scalar.h"

/* exp(x) = 2^n exp(r): the series of exp on |r| <= ln(2) / 2, 1e-15 relative; |x| below 700. */
static double exp_double(double x)
{
    double n = (double)(long)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33, sum = 1;
    for (int i = 14; i > 0; i--)
        sum = 1 + sum * r / i;
    uint64_t bits = (uint64_t)((long)n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* Both at once, 1e-14 absolute for |x| up to a million: x less quarters of a turn in three steps (Cody, Waite 1980), then the series. */
static void sin_cos(double x, double *s, double *c)
{
    double n = (double)(long)(x * 0.63661977236758134 + (x < 0 ? -0.5 : 0.5));
    double r = ((x - n * 0x1.921fb54400000p+0) - n * 0x1.0b4611a600000p-34) - n * 0x1.3198a2e037073p-69, q = r * r;
    double sine = 1, cosine = 1;
    for (int i = 16; i > 0; i -= 2) {
        sine = 1 - sine * q / (double)(i * (i + 1));
        cosine = 1 - cosine * q / (double)(i * (i - 1));
    }
    sine *= r;
    long turn = (long)n & 3;
    double a = turn & 1 ? cosine : sine, b = turn & 1 ? sine : cosine;
    *s = turn & 2 ? -a : a;
    *c = (turn + 1) & 2 ? -b : b;
}

void kn_rotary_frequencies(long half, double theta, double *frequency)
{
    double log_theta = kn_log(theta);
    for (long i = 0; i < half; i++)
        frequency[i] = exp_double(-log_theta * (double)i / (double)half);
}

void kn_rotary_angles(long rows, long half, long first, const double *frequency, float *c, float *s)
{
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < half; i++) {
            double sine, cosine;
            sin_cos((double)(first + r) * frequency[i], &sine, &cosine);
            c[r * half + i] = (float)cosine;
            s[r * half + i] = (float)sine;
        }
}
