/* vqa.c - the plain form of an answer, and how many gave it. */
#include "vqa.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- the plain form ----------------------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_space(int32_t c)
{
    int k = utf8proc_category(c);
    return (c >= 9 && c <= 13) || (c >= 28 && c <= ' ') || c == 0x85 || (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP);
}

/* One character at s, and its bytes; a byte that begins none stands for itself. */
static size_t read_one(const char *s, size_t n, int32_t *c)
{
    long bytes = utf8proc_iterate((const uint8_t *)s, (long)n, c);
    if (bytes > 0)
        return (size_t)bytes;
    *c = 0xfffd;
    return 1;
}

/* Without spaces at the ends; tabs and ends of lines are spaces. */
static int put_stripped(bs_buf *out, const char *s, oc_err *err)
{
    size_t n = strlen(s), first = n, last = 0, bytes;
    int32_t c;
    for (size_t i = 0; i < n; i += bytes) {
        bytes = read_one(s + i, n - i, &c);
        if (!is_space(c)) {
            first = i < first ? i : first;
            last = i + bytes;
        }
    }
    size_t at = out->n;
    if (bs_buf_put(out, s + (first < last ? first : last), first < last ? last - first : 0, err))
        return -1;
    for (; at < out->n; at++)
        if (out->p[at] == '\n' || out->p[at] == '\t')
            out->p[at] = ' ';
    return 0;
}

static bool comma_in_number(const char *s)
{
    for (const char *p = strchr(s, ','); p; p = strchr(p + 1, ','))
        if (p > s && is_digit(p[-1]) && is_digit(p[1]))
            return true;
    return false;
}

static bool beside_space(const char *s, char sign)
{
    for (const char *p = strchr(s, sign); p; p = strchr(p + 1, sign))
        if (p[1] == ' ' || (p > s && p[-1] == ' '))
            return true;
    return false;
}

/* In place: signs go or become spaces. */
static void take_signs(char *s)
{
    static const char signs[] = ";/[]\"{}()=+\\_-><@`,?!";
    bool goes[sizeof signs], number = comma_in_number(s);
    char *to = s;
    for (size_t k = 0; signs[k]; k++)
        goes[k] = number || beside_space(s, signs[k]);
    for (; *s; s++) {
        const char *sign = strchr(signs, *s);
        if (!sign)
            *to++ = *s;
        else if (!goes[sign - signs])
            *to++ = ' ';
    }
    *to = 0;
}

static void take_stops(char *s)
{
    enum { MOST = 32 }; /* the official program hands a flag of this value where the number of replacements goes */
    int taken = 0;
    char *to = s;
    for (; *s; s++)
        if (*s != '.' || is_digit(s[1]) || taken++ >= MOST)
            *to++ = *s;
    *to = 0;
}

/* Words that a writer may have left one apostrophe out of. Two exceptions stand at put_word. */
static const char *const contractions[] = {
    "ain't",        "aren't",      "can't",     "could've",     "couldn't",   "couldn't've", "didn't",       "doesn't",
    "don't",        "hadn't",      "hadn't've", "hasn't",       "haven't",    "he'd",        "he'd've",      "he's",
    "how'd",        "how'll",      "how's",     "isn't",        "it'd",       "it'd've",     "it'll",        "ma'am",
    "mightn't",     "mightn't've", "might've",  "mustn't",      "must've",    "needn't",     "not've",       "o'clock",
    "oughtn't",     "'ow's'at",    "shan't",    "she'd've",     "should've",  "shouldn't",   "shouldn't've", "somebody'd've",
    "somebody'll",  "somebody's",  "someone'd", "someone'd've", "someone'll", "someone's",   "something'd",  "something'd've",
    "something'll", "that's",      "there'd",   "there'd've",   "there're",   "there's",     "they'd",       "they'd've",
    "they'll",      "they're",     "they've",   "'twas",        "wasn't",     "we'd've",     "we've",        "weren't",
    "what'll",      "what're",     "what's",    "what've",      "when's",     "where'd",     "where's",      "where've",
    "who'd",        "who'd've",    "who'll",    "who's",        "who've",     "why'll",      "why're",       "why's",
    "won't",        "would've",    "wouldn't",  "wouldn't've",  "y'all",      "y'all'll",    "y'all'd've",   "you'd",
    "you'd've",     "you'll",      "you're",    "you've"};

/* Is `word` the same as `whole` but for one apostrophe that it lacks? */
static bool lacks_one(const char *word, const char *whole)
{
    size_t same = 0;
    while (word[same] && word[same] == whole[same])
        same++;
    return whole[same] == '\'' && !strcmp(word + same, whole + same + 1);
}

static const char *whole_word(const char *word)
{
    static const char *const numbers[] = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"},
                             *const digits[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!strcmp(word, numbers[i]))
            return digits[i];
    for (size_t i = 0; i < sizeof contractions / sizeof contractions[0]; i++)
        if (lacks_one(word, contractions[i]))
            return contractions[i];
    return !strcmp(word, "none") ? "0" : !strcmp(word, "somebody'd") ? "somebodyd" : word;
}

/* A word in lower case, behind a space unless it is the answer's first. */
static int put_word(bs_buf *out, size_t start, const char *word, oc_err *err)
{
    if (!*word || !strcmp(word, "a") || !strcmp(word, "an") || !strcmp(word, "the"))
        return 0;
    word = whole_word(word);
    return (out->n > start && bs_buf_put(out, " ", 1, err)) || bs_buf_put(out, word, strlen(word), err) ? -1 : 0;
}

static int put_words(bs_buf *out, const char *s, bs_buf *word, oc_err *err)
{
    size_t n = strlen(s), start = out->n;
    uint8_t utf8[4];
    int32_t c;
    for (size_t i = 0; i < n;) {
        i += read_one(s + i, n - i, &c);
        bool space = is_space(c);
        if (!space && bs_buf_put(word, utf8, (size_t)utf8proc_encode_char(utf8proc_tolower(c), utf8), err))
            return -1;
        if (!space && i < n)
            continue;
        if (bs_buf_put(word, "", 0, err) || put_word(out, start, word->p, err))
            return -1;
        word->n = 0;
    }
    return bs_buf_put(out, "", 0, err);
}

int ev_vqa_plain(bs_buf *out, const char *answer, oc_err *err)
{
    bs_buf text = {0}, word = {0};
    int result = put_stripped(&text, answer, err);
    if (!result) {
        take_signs(text.p);
        take_stops(text.p);
        result = put_words(out, text.p, &word, err);
    }
    bs_buf_clear(&text);
    bs_buf_clear(&word);
    return result;
}

/* ---- accuracy --------------------------------------------------------------------------------------------------------- */

typedef int put_form(bs_buf *out, const char *answer, oc_err *err);

/* Which of n answers are the same as what was said, in one form. How many: 0 .. n; all: are they all equal? -1: an error. */
static int count_same(put_form *form, const char *said, const char *const *answers, int n, bool *all, oc_err *err)
{
    bs_buf mine = {0}, theirs = {0}, first = {0};
    int same = 0, result = form(&mine, said, err) || form(&first, answers[0], err) ? -1 : 0;
    *all = true;
    for (int i = 0; !result && i < n; i++) {
        theirs.n = 0;
        result = form(&theirs, answers[i], err);
        same += !result && !strcmp(mine.p, theirs.p);
        *all = *all && !result && !strcmp(first.p, theirs.p);
    }
    bs_buf_clear(&mine);
    bs_buf_clear(&theirs);
    bs_buf_clear(&first);
    return result ? -1 : same;
}

int ev_vqa_accuracy(const char *said, const char *const *answers, int n, double *accuracy, oc_err *err)
{
    bool all;
    int same = count_same(put_stripped, said, answers, n, &all, err);
    if (same >= 0 && !all)
        same = count_same(ev_vqa_plain, said, answers, n, &all, err);
    if (same < 0)
        return -1;
    /* One of those who agree is left out `same` times, somebody else n - same times. */
    double without_one = same > 3 ? 1 : (same - 1) / 3.0, with_all = same >= 3 ? 1 : same / 3.0;
    *accuracy = same ? (same * without_one + (n - same) * with_all) / n : 0;
    return 0;
}
