/* beside.h - products of one A, computed together by kn_gemm's `also`. The includer has copy_of and same_bits. */
#ifndef BESIDE_H
#define BESIDE_H

enum { BESIDE = 3 };

/* Three products of one A beside each other: of g's weight, of another, and of g's again with other ends; or, when `odd`, of which one has fewer columns. */
static void link_products(const kn_gemm *g, const kn_packed *other, const float *old, bool odd, kn_gemm *all)
{
    for (int i = 0; i < BESIDE; i++) {
        all[i] = *g;
        all[i].c = copy_of(old, g->m * g->ldc);
        all[i].residual = g->residual == g->c ? all[i].c : g->residual;
        all[i].also = i + 1 < BESIDE ? &all[i + 1] : NULL;
    }
    all[1].packed = other;
    all[2].bias = NULL;
    all[2].act = KN_RELU;
    all[2].n -= odd && g->n > 1;
}

/* They have the bits that they have one after another. */
static void check_beside(const kn_table *t, kn_work *const *w, int works, const kn_gemm *g, const kn_packed *other,
                         const float *old)
{
    for (int odd = 0; odd < 2; odd++) {
        kn_gemm apart[BESIDE], beside[BESIDE];
        link_products(g, other, old, odd, apart);
        for (int i = 0; i < BESIDE; i++) {
            kn_gemm one = apart[i];
            one.also = NULL;
            kn_gemm_run(w[0], &one);
        }
        for (int k = 0; k < works; k++) {
            link_products(g, other, old, odd, beside);
            kn_gemm_run(w[k], beside);
            for (int i = 0; i < BESIDE; i++)
                same_bits(t->name, "a product beside others", beside[i].c, apart[i].c, g->m * g->ldc);
        }
    }
}

#endif
