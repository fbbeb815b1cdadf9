/* caption_tokens.c - the Penn Treebank's rules for captions. At every place the longest rule that fits makes a word. */
#include "caption_tokens.h"

#include <string.h>
#include <utf8proc.h>

/* Characters in lower case, with zeros before and behind: a rule may look one back and some ahead. */
typedef struct scan {
    int32_t *c;
    bool *upper; /* [n] was in upper case */
    size_t n;
    bs_buf *out;
    size_t start; /* of this caption in out */
    oc_err *err;
} scan;

enum { AHEAD = 8 };

/* ---- classes -------------------------------------------------------------------------------------------------------- */

static bool is_letter(int32_t c)
{
    int k = utf8proc_category(c);
    return c && ((k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME));
}

static bool is_digit(int32_t c) { return c && utf8proc_category(c) == UTF8PROC_CATEGORY_ND; }

/* Ideographs and kana: scripts without spaces. */
static bool is_ideograph(int32_t c)
{
    return (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x20000 && c <= 0x3ffff) || (c >= 0x3041 && c <= 0x30ff && c != 0x30fb) || c == 0x3005 || c == 0x3007 ||
           (c >= 0x31f0 && c <= 0x31ff) || (c >= 0xff66 && c <= 0xff9f);
}

static bool is_word(int32_t c) { return (is_letter(c) || is_digit(c)) && !is_ideograph(c); }

/* What goes without a trace. A full stop that is part of a word never comes here. */
static bool is_punctuation(int32_t c)
{
    int k = utf8proc_category(c);
    return c < 128 ? strchr(".,:;-'`\"!?", c) != NULL : k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_space(int32_t c)
{
    int k = utf8proc_category(c);
    return c <= ' ' || (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_CO) || k == UTF8PROC_CATEGORY_CN;
}

/* ---- words out --------------------------------------------------------------------------------------------------------- */

static int put_text(scan *s, const char *text)
{
    bool first = s->out->n == s->start;
    return !first && bs_buf_put(s->out, " ", 1, s->err) ? -1 : bs_buf_put(s->out, text, strlen(text), s->err);
}

static int put(scan *s, size_t from, size_t to)
{
    uint8_t utf8[4];
    if (put_text(s, ""))
        return -1;
    for (size_t i = from; i < to; i++)
        if (bs_buf_put(s->out, utf8, (size_t)utf8proc_encode_char(s->c[i], utf8), s->err))
            return -1;
    return 0;
}

/* Do the characters at i spell text? */
static bool spells(const scan *s, size_t i, const char *text)
{
    while (*text && s->c[i] == *text) {
        i++;
        text++;
    }
    return !*text;
}

/* Is [from, to) one of the texts? The list ends with NULL. */
static bool is_one_of(const scan *s, size_t from, size_t to, const char *const *texts)
{
    for (; *texts; texts++)
        if (strlen(*texts) == to - from && spells(s, from, *texts))
            return true;
    return false;
}

/* ---- apostrophes --------------------------------------------------------------------------------------------------------- */

/* The length of 's, 'll and their like at i, or of what is written with an apostrophe before it; 0: none. */
static size_t clitic(const scan *s, size_t i)
{
    static const char *const known[] = {"'s", "'m", "'d", "'re", "'ve", "'ll", "'em", "'n'", "'n", "'til", "'cause", NULL};
    for (int k = 0; known[k]; k++)
        if (spells(s, i, known[k]) && (known[k][strlen(known[k]) - 1] == '\'' || !is_word(s->c[i + strlen(known[k])])))
            return strlen(known[k]);
    bool decade = s->c[i] == '\'' && is_digit(s->c[i + 1]) && is_digit(s->c[i + 2]) && s->c[i + 3] == 's';
    return decade && !is_word(s->c[i + 4]) ? 4 : 0;
}

static bool is_not(const scan *s, size_t i) { return spells(s, i, "n't") && !is_word(s->c[i + 3]); }

/* Does the word [from, at) go on behind its apostrophe at `at`? */
static bool goes_on(const scan *s, size_t from, size_t at)
{
    static const char *const elided[] = {"o", "d", "l", "c", "n", "qu", NULL}, *const whole[] = {"ma'am", "hawai'i", "e'er",
                                                                                                 "ne'er", NULL};
    if (!is_letter(s->c[at + 1]) || clitic(s, at))
        return false;
    for (int i = 0; whole[i]; i++)
        if (spells(s, from, whole[i]))
            return true;
    return is_one_of(s, from, at, elided);
}

/* ---- words ---------------------------------------------------------------------------------------------------------------- */

/* Abbreviations of PTBTokenizer: their full stop is part of them. */
static const char *const abbreviations[] = {
    "adm",  "al",    "ala",   "apr", "ariz", "assn",   "assoc", "atty", "attys", "aug",  "ave",  "bhd",  "bldg", "blvd",  "brig",
    "bros", "calif", "capt",  "cf",  "cie",  "cmdr",   "co",    "col",  "colo",  "conn", "corp", "cos",  "cpl",  "ct",    "dec",
    "dept", "det",   "dr",    "drs", "elec", "esq",    "est",   "etc",  "ext",   "feb",  "fla",  "fri",  "ft",   "ga",    "gen",
    "gov",  "govs",  "hon",   "inc", "ind",  "insp",   "intl",  "jan",  "jos",   "jr",   "jul",  "jun",  "kan",  "kans",  "ky",
    "lt",   "ltd",   "maj",   "mar", "md",   "messrs", "mfg",   "mich", "minn",  "mo",   "mon",  "mont", "mr",   "mrs",   "ms",
    "mt",   "natl",  "neb",   "nev", "nov",  "oct",    "okla",  "penn", "ph",    "ph.d", "plc",  "pres", "prof", "pty",   "rd",
    "rep",  "reps",  "rev",   "sen", "sens", "sep",    "sept",  "sgt",  "sq",    "sr",   "st",   "ste",  "supt", "supts", "tel",
    "tenn", "thu",   "thurs", "tue", "tues", "univ",   "va",    "vs",   "vt",    "wed",  "wis",  "wisc", "wm",   "wyo",   NULL};

/* Those only before a number (no. 5). */
static const char *const numbered[] = {"art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop", NULL};

/* j, u.s, a.m: letters one by one, with full stops between them. */
static bool is_acronym(const scan *s, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if ((i - from) % 2 ? s->c[i] != '.' : !is_letter(s->c[i]))
            return false;
    return (to - from) % 2 == 1;
}

/* Does the caption end at i, or another sentence begin? */
static bool sentence_ends(const scan *s, size_t i)
{
    static const char *const beginnings[] = {"a", "an", "the", "there", "this", "it", "in", "some", "one", NULL};
    size_t end;
    while (s->c[i] == ' ')
        i++;
    for (end = i; is_letter(s->c[end]);)
        end++;
    return i == s->n || (s->upper[i] && is_one_of(s, i, end, beginnings));
}

static bool keeps_stop(const scan *s, size_t from, size_t to)
{
    size_t next = s->c[to + 1] == ' ' ? to + 2 : to + 1;
    if (to == from + 1 && sentence_ends(s, to + 1))
        return false;
    return is_acronym(s, from, to) || is_one_of(s, from, to, abbreviations) ||
           (is_one_of(s, from, to, numbered) && is_digit(s->c[next]));
}

/* Is the sign at i inside a word that began at `from`? `letters`: the word has some; `slashes`: so many already. */
static bool joins(const scan *s, size_t from, size_t i, bool letters, int slashes)
{
    int32_t before = s->c[i - 1], next = s->c[i + 1];
    if (!is_word(before) || !is_word(next))
        return false;
    switch (s->c[i]) {
    case '-':
    case '_':
    case '@': return true;
    case '/': return slashes < 2;
    case '.': return letters && is_letter(next);
    case '!':
    case '?': return is_letter(before) && is_letter(next);
    case '&': return s->upper[i - 1] && s->upper[i + 1];
    case '\'': return goes_on(s, from, i);
    default: return false;
    }
}

/* Where the word that begins at i ends; i: none does. */
static size_t word_end(const scan *s, size_t i)
{
    size_t from = i;
    bool letters = false;
    int slashes = 0;
    for (; is_word(s->c[i]) || (i > from && joins(s, from, i, letters, slashes)); i++) {
        letters |= is_letter(s->c[i]);
        slashes += s->c[i] == '/';
        if (i > from && is_not(s, i))
            return i;
    }
    if (i > from && s->c[i] == '.' && keeps_stop(s, from, i))
        i++;
    else if (i == from + 1 && s->c[i] == '\'' && (s->c[from] == 'y' || s->c[from] == 'j') && is_letter(s->c[i + 1]))
        i++; /* y'all */
    return i;
}

/* The same of a number: 1,000 10:30 3.5 1/2 .5 -5 */
static size_t number_end(const scan *s, size_t i)
{
    size_t from = i;
    i += s->c[i] == '+' || s->c[i] == '-';
    i += s->c[i] == '.' || s->c[i] == ',';
    if (!is_digit(s->c[i]))
        return from;
    while (is_digit(s->c[i]) || (s->c[i] && s->c[i] < 128 && strchr(".,:/", s->c[i]) && is_digit(s->c[i + 1])))
        i++;
    return i;
}

static int put_word(scan *s, size_t from, size_t to)
{
    static const struct {
        const char *word;
        size_t first;
    } two[] = {{"cannot", 3}, {"gonna", 3}, {"gotta", 3}, {"wanna", 3}, {"gimme", 3}, {"lemme", 3}};
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++)
        if (strlen(two[i].word) == to - from && spells(s, from, two[i].word))
            return put(s, from, from + two[i].first) || put(s, from + two[i].first, to) ? -1 : 0;
    return put(s, from, to);
}

/* ---- signs ---------------------------------------------------------------------------------------------------------------- */

/* What a character is called; NULL: by itself. */
static const char *name_of(int32_t c)
{
    static const struct {
        int32_t c;
        const char *name;
    } names[] = {{'(', "-lrb-"}, {')', "-rrb-"}, {'[', "-lsb-"}, {']', "-rsb-"},  {'{', "-lcb-"}, {'}', "-rcb-"},
                 {0xbd, "1/2"},  {0xbc, "1/4"},  {0xbe, "3/4"},  {0xa2, "cents"}, {0xa3, "#"},    {0x20ac, "$"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].c == c)
            return names[i].name;
    return NULL;
}

static size_t run_end(const scan *s, size_t i, const char *of)
{
    while (s->c[i] && s->c[i] < 128 && strchr(of, s->c[i]))
        i++;
    return i;
}

/* Signs that stay together: !! ?! *** ## __, and a # or @ with its word. i: none. */
static size_t signs_end(const scan *s, size_t i)
{
    size_t end = run_end(s, i, "!?");
    if (end > i)
        return end > i + 1 ? end : i;
    if ((s->c[i] == '#' || s->c[i] == '@') && is_letter(s->c[i + 1])) {
        for (i++; is_word(s->c[i]) || s->c[i] == '_';)
            i++;
        return i;
    }
    return run_end(s, i, s->c[i] == '*' ? "*" : s->c[i] == '#' ? "#" : s->c[i] == '_' ? "_" : "");
}

/* One character by itself, or nothing. */
static int put_sign(scan *s, size_t i)
{
    int32_t c = s->c[i];
    const char *name = name_of(c);
    if (name)
        return put_text(s, name);
    return is_space(c) || is_punctuation(c) || (c > 0xffff && !is_ideograph(c)) ? 0 : put(s, i, i + 1);
}

/* ---- captions -------------------------------------------------------------------------------------------------------------- */

/* The word at *i, which moves behind it. */
static int one_word(scan *s, size_t *i)
{
    size_t from = *i, word = word_end(s, from), number = number_end(s, from), clitics = clitic(s, from);
    if (spells(s, from, "'tis") || spells(s, from, "'twas"))
        clitics = 2;
    *i = word > number ? word : number;
    if (is_not(s, from))
        *i = from + 3;
    if (*i > from)
        return put_word(s, from, *i);
    *i = clitics ? from + clitics : is_ideograph(s->c[from]) ? from + 1 : signs_end(s, from);
    if (*i > from)
        return put(s, from, *i);
    *i = from + 1;
    return put_sign(s, from);
}

/* Curly apostrophes are apostrophes; a soft hyphen is not there. */
static void read_characters(scan *s, const char *text, size_t bytes)
{
    int32_t c;
    for (size_t at = 0; at < bytes;) {
        long n = utf8proc_iterate((const uint8_t *)text + at, (long)(bytes - at), &c);
        at += n > 0 ? (size_t)n : 1;
        if (n <= 0 || c == 0xad)
            continue;
        s->c[s->n] = c == 0x2019 ? '\'' : utf8proc_tolower(c);
        s->upper[s->n] = s->c[s->n] != c;
        s->n++;
    }
}

int ev_caption_tokens(bs_buf *out, const char *text, oc_err *err)
{
    size_t bytes = strlen(text);
    int32_t *c = bs_calloc(bytes + 1 + AHEAD, sizeof *c, "a caption", err);
    bool *upper = c ? bs_calloc(bytes + 1 + AHEAD, sizeof *upper, "a caption", err) : NULL;
    scan s = {c ? c + 1 : NULL, upper ? upper + 1 : NULL, 0, out, out->n, err};
    int result = upper && !bs_buf_put(out, "", 0, err) ? 0 : -1;
    if (!result)
        read_characters(&s, text, bytes);
    for (size_t i = 0; !result && i < s.n;)
        result = one_word(&s, &i);
    bs_free(c);
    bs_free(upper);
    return result;
}
