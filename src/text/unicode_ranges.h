/* unicode_ranges.h - tables of characters, sorted, inclusive. Private to src/text. */
#ifndef TX_UNICODE_RANGES_H
#define TX_UNICODE_RANGES_H

#include <stddef.h>
#include <stdint.h>

typedef struct tx_range {
    uint32_t first, last;
} tx_range;
typedef struct tx_category {
    uint32_t first, last;
    char name[3];
} tx_category;

extern const tx_range tx_punct[], tx_numeric[], tx_accent[], tx_nonspacing[], tx_other[], tx_young_form[],
    tx_young_word[];
extern const size_t tx_punct_n, tx_numeric_n, tx_accent_n, tx_nonspacing_n, tx_other_n, tx_young_form_n,
    tx_young_word_n;
extern const tx_category tx_young_category[];
extern const size_t tx_young_category_n;

#endif
