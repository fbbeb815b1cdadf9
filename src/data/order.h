/* order.h - everything once an epoch, in an order of that epoch's own. */
#ifndef DT_ORDER_H
#define DT_ORDER_H

#include "../base/base.h"

typedef struct dt_order {
    long *p; /* own, [n]: of epoch `epoch` (-1: of none yet) */
    long n, epoch;
    uint64_t seed;
} dt_order;

/* n > 0 items; the order depends on the seed and the epoch alone. */
int dt_order_open(dt_order *o, long n, uint64_t seed, oc_err *err);
/* Number `at` of all that are drawn, epoch after epoch. */
long dt_order_at(dt_order *o, long at);
void dt_order_clear(dt_order *o);

#endif
