/* pairs.c - reading JSON lines and TSV. */
#include "pairs.h"

#include <stdlib.h>
#include <string.h>

/* ---- groups: names to numbers, by open addressing --------------------------------------------------------------- */

typedef struct names {
    char **key; /* size a power of two; number of the group is value */
    long *value;
    size_t size, n;
} names;

static size_t place(const names *m, const char *key)
{
    size_t i = (size_t)bs_hash(BS_HASH_START, key, strlen(key)) & (m->size - 1);
    while (m->key[i] && strcmp(m->key[i], key) != 0)
        i = (i + 1) & (m->size - 1);
    return i;
}

static int widen(names *m)
{
    names bigger = {.size = m->size ? m->size * 2 : 1024, .n = m->n};
    bigger.key = calloc(bigger.size, sizeof *bigger.key);
    bigger.value = calloc(bigger.size, sizeof *bigger.value);
    if (!bigger.key || !bigger.value) {
        free(bigger.key);
        free(bigger.value);
        return -1;
    }
    for (size_t i = 0; i < m->size; i++)
        if (m->key[i]) {
            size_t at = place(&bigger, m->key[i]);
            bigger.key[at] = m->key[i];
            bigger.value[at] = m->value[i];
        }
    free(m->key);
    free(m->value);
    *m = bigger;
    return 0;
}

/* The number of a group by its name, a new one when it is new; -1 when memory is short. */
static long number_of(names *m, const char *key)
{
    if (m->n * 2 >= m->size && widen(m))
        return -1;
    size_t at = place(m, key);
    if (!m->key[at]) {
        m->key[at] = bs_strdup(key);
        if (!m->key[at])
            return -1;
        m->value[at] = (long)m->n++;
    }
    return m->value[at];
}

static void names_clear(names *m)
{
    for (size_t i = 0; i < m->size; i++)
        free(m->key[i]);
    free(m->key);
    free(m->value);
}

/* ---- lines --------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    dt_pairs *pairs;
    names groups, kins;
    long cap;
    char *folder;
    const char *path;
    long line;
} reader;

static int no_memory(const reader *r, oc_err *err) { return bs_err(err, "out of memory: the pairs of '%s'", r->path); }

static dt_pair *new_pair(reader *r, oc_err *err)
{
    dt_pairs *d = r->pairs;
    if (d->n == r->cap) {
        long cap = r->cap ? r->cap * 2 : 1024;
        dt_pair *p = realloc(d->p, (size_t)cap * sizeof *p);
        if (!p) {
            no_memory(r, err);
            return NULL;
        }
        d->p = p;
        r->cap = cap;
    }
    memset(&d->p[d->n], 0, sizeof d->p[0]);
    d->p[d->n].group = d->p[d->n].kin = -1;
    return &d->p[d->n++];
}

static int language_of(reader *r, const char *key, oc_err *err)
{
    dt_pairs *d = r->pairs;
    int i = dt_language(d, key);
    if (i >= 0)
        return i;
    if (d->languages == DT_LANGUAGES)
        return bs_err(err, "'%s' line %ld: '%s' is one language more than %d", r->path, r->line, key, DT_LANGUAGES);
    d->language[d->languages] = bs_strdup(key);
    return d->language[d->languages] ? d->languages++ : no_memory(r, err);
}

static int add_text(reader *r, dt_pair *p, int language, const char *text, oc_err *err)
{
    dt_texts *t = &p->language[language];
    char **more = realloc(t->p, (size_t)(t->n + 1) * sizeof *more);
    if (!more)
        return no_memory(r, err);
    t->p = more;
    t->p[t->n] = bs_strdup(text);
    if (!t->p[t->n])
        return no_memory(r, err);
    t->n++;
    p->texts++;
    return 0;
}

static int add_texts(reader *r, dt_pair *p, const ck_config *value, const char *key, oc_err *err)
{
    int language = language_of(r, key, err);
    bool list = ck_config_kind(value) == CK_ARRAY;
    for (size_t i = 0, n = list ? ck_config_size(value) : 1; language >= 0 && i < n; i++) {
        const char *text = NULL;
        if (ck_string(list ? ck_config_at(value, i) : value, NULL, &text, err) ||
            (text && text[0] && add_text(r, p, language, text, err)))
            return -1;
    }
    return language < 0 ? -1 : 0;
}

static int read_object(reader *r, const ck_config *c, oc_err *err)
{
    const char *image = NULL, *group = NULL, *kin = NULL, *question = NULL;
    dt_pair *p = new_pair(r, err);
    if (!p || ck_config_need(c, "image", "a path", err) || ck_string(c, "image", &image, err) ||
        ck_string(c, "group", &group, err) || ck_string(c, "kin", &kin, err) || ck_string(c, "question", &question, err))
        return -1;
    p->image = bs_join(r->folder, image);
    p->question = question ? bs_strdup(question) : NULL;
    if (!p->image || (question && !p->question) || (group && (p->group = number_of(&r->groups, group)) < 0) ||
        (kin && (p->kin = number_of(&r->kins, kin)) < 0))
        return no_memory(r, err);
    for (size_t i = 0; i < ck_config_size(c); i++) {
        const ck_config *member = ck_config_at(c, i);
        const char *key = ck_config_key(member);
        bool answer = !strcmp(key, "answer") || !strcmp(key, "answers");
        if ((answer || !strncmp(key, "text", 4)) && add_texts(r, p, member, answer ? "text" : key, err))
            return -1;
    }
    return p->texts ? 0 : bs_err(err, "'%s' line %ld: no text, expected \"text\"", r->path, r->line);
}

static int read_json_line(void *arg, char *line, size_t n, long number, oc_err *err)
{
    reader *r = arg;
    char name[600];
    r->line = number;
    snprintf(name, sizeof name, "%s line %ld", r->path, r->line);
    ck_config *c = ck_config_parse(line, n, name, err);
    int result = c ? read_object(r, c, err) : -1;
    ck_config_free(c);
    return result;
}

static int read_tsv_line(void *arg, char *line, size_t n, long number, oc_err *err)
{
    (void)n;
    reader *r = arg;
    r->line = number;
    char *tab = strchr(line, '\t');
    if (!tab || !tab[1])
        return bs_err(err, "'%s' line %ld: expected PATH, a tab and a text", r->path, r->line);
    *tab = 0;
    dt_pair *p = new_pair(r, err);
    if (!p)
        return -1;
    p->image = bs_join(r->folder, line);
    tab[1 + strcspn(tab + 1, "\t\r")] = 0;
    int language = language_of(r, "text", err);
    return !p->image || language < 0 || add_text(r, p, language, tab + 1, err) ? no_memory(r, err) : 0;
}

static int read_lines(reader *r, bs_buf *b, oc_err *err)
{
    const char *dot = strrchr(r->path, '.');
    bool json = dot && (!strcmp(dot, ".jsonl") || !strcmp(dot, ".json")), tsv = dot && !strcmp(dot, ".tsv");
    if (!json && !tsv)
        return bs_err(err, "'%s': expected a .jsonl or .tsv file of pairs", r->path);
    if (bs_buf_lines(b, json ? read_json_line : read_tsv_line, r, err))
        return -1;
    return r->pairs->n ? 0 : bs_err(err, "'%s': holds no pairs", r->path);
}

int dt_pairs_read(dt_pairs *pairs, const char *path, oc_err *err)
{
    memset(pairs, 0, sizeof *pairs);
    reader r = {.pairs = pairs, .path = path, .folder = bs_strdup(path)};
    bs_buf b = {0};
    int result = -1;
    if (!r.folder) {
        no_memory(&r, err);
        goto done;
    }
    char *slash = strrchr(r.folder, '/');
    if (slash)
        slash[1] = 0;
    else
        r.folder[0] = 0;
    if (bs_read_file(&b, path, (size_t)8 << 30, err) || read_lines(&r, &b, err))
        goto done;
    pairs->groups = (long)r.groups.n;
    pairs->kins = (long)r.kins.n;
    result = 0;
done:
    bs_buf_clear(&b);
    names_clear(&r.groups);
    names_clear(&r.kins);
    free(r.folder);
    if (result)
        dt_pairs_clear(pairs);
    return result;
}

void dt_pairs_clear(dt_pairs *d)
{
    for (long i = 0; i < d->n; i++) {
        free(d->p[i].image);
        free(d->p[i].question);
        for (int k = 0; k < DT_LANGUAGES; k++) {
            for (int t = 0; t < d->p[i].language[k].n; t++)
                free(d->p[i].language[k].p[t]);
            free(d->p[i].language[k].p);
        }
    }
    for (int k = 0; k < d->languages; k++)
        free(d->language[k]);
    free(d->p);
    memset(d, 0, sizeof *d);
}

int dt_language(const dt_pairs *d, const char *key)
{
    for (int i = 0; i < d->languages; i++)
        if (!strcmp(d->language[i], key))
            return i;
    return -1;
}
