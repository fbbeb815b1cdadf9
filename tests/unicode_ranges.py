"""Prints src/text/unicode_ranges.c: what `tokenizers` believes of each character, asked character by character.

    unicode_ranges.py > src/text/unicode_ranges.c

Needs the `tokenizers` wheel (0.23) and Python 3.11, whose own tables are those of Unicode 14.
"""
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CHARS = [c for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
# Characters with a decomposition that came after Unicode 14.
YOUNGER_FORMS = [(0xA7F1, 0xA7F1), (0x105C9, 0x105C9), (0x105E4, 0x105E4), (0x11383, 0x113C8), (0x16121, 0x16128),
                 (0x16D68, 0x16D6A), (0x1CCD6, 0x1CCF9), (0x1E030, 0x1E06D)]


def removed_by(normalizer):
    gone = set()
    for i in range(0, len(CHARS), 4096):
        part = CHARS[i:i + 4096]
        left = set(normalizer.normalize_str("".join(map(chr, part))))
        gone.update(c for c in part if chr(c) not in left)
    return gone


def matched(pattern):
    return removed_by(normalizers.Replace(Regex(pattern), ""))


def dropped_between(normalizer):
    return {c for c in CHARS if normalizer.normalize_str(f"a{chr(c)}a") == "aa"}


def cut_between(pre_tokenizer):
    return {c for c in CHARS if len(pre_tokenizer.pre_tokenize_str(f"a{chr(c)}a")) == 3}


def ranges(chars, key=lambda c: None):
    out = []
    for c in sorted(chars):
        if out and out[-1][1] == c - 1 and out[-1][2] == key(c):
            out[-1][1] = c
        else:
            out.append([c, c, key(c)])
    return out


def table(kind, name, about, rows):
    lines, line = [f"/* {about} */", f"const {kind} {name}[] = {{"], "   "
    for row in rows:
        if len(line) + 1 + len(row) > 110:
            lines.append(line)
            line = "   "
        line += " " + row
    print("\n".join(lines + [line, "};", f"const size_t {name}_n = sizeof {name} / sizeof {name}[0];", ""]))


def plain(name, about, chars):
    table("tx_range", name, about, ["{0x%04X, 0x%04X}," % (a, b) for a, b, _ in ranges(chars)])


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit("this needs the tables of Unicode 14, as in Python 3.11")
    print("""/* unicode_ranges.c - classes of characters as Hugging Face's `tokenizers` has them, found by asking it one by
 * one (tests/unicode_ranges.py prints this file). They are tables of our own because the pieces it is built
 * of follow four versions of Unicode (8 in its categories, 9 in its normal forms, 16 in its regular
 * expressions, 17 in lower case), so no library agrees with all of them. */
#include "unicode_ranges.h"
""")
    bert = dict(handle_chinese_chars=False, lowercase=False)
    plain("tx_punct", "ASCII punctuation and category P, as Punctuation and BertPreTokenizer see it.",
          cut_between(pre_tokenizers.Punctuation("isolated")))
    plain("tx_numeric", "Category N, as Digits sees it.", cut_between(pre_tokenizers.Digits(True)))
    plain("tx_accent", "Category M, as StripAccents and the normal forms see it.", dropped_between(normalizers.StripAccents()))
    plain("tx_nonspacing", "Category Mn, as BertNormalizer sees it.",
          dropped_between(normalizers.BertNormalizer(clean_text=False, strip_accents=True, **bert)))
    plain("tx_other", "Categories Cc, Cf and Co, as BertNormalizer removes them.",
          dropped_between(normalizers.BertNormalizer(clean_text=True, strip_accents=False, **bert)) - {0xFFFD})
    nfkd = normalizers.NFKD()
    young = {c for c in CHARS if unicodedata.normalize("NFKD", chr(c)) != chr(c) == nfkd.normalize_str(chr(c))}
    for first, last in YOUNGER_FORMS:
        young.update(range(first, last + 1))
    plain("tx_young_form", "Characters whose decomposition its normal forms do not know.", young)
    plain("tx_young_word", r"\w of Unicode 16, as far as Unicode 14 did not know it.",
          {c for c in matched(r"\w") if unicodedata.category(chr(c)) == "Cn"})
    category = {}
    for name in CATEGORIES:
        category.update((c, name) for c in matched(r"\p{%s}" % name))
    changed = {c for c in category if category[c] != unicodedata.category(chr(c))}
    table("tx_category", "tx_young_category",
          "Characters whose category in Unicode 16 is not that of Unicode 14, which older regex libraries have.",
          ['{0x%04X, 0x%04X, "%s"},' % tuple(r) for r in ranges(changed, category.get)])


if __name__ == "__main__":
    main()
