/* scan.c - the pictures below a folder. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "index.h"

/* A folder that was entered, or is still to be. */
typedef struct folder_id {
    dev_t dev;
    ino_t ino;
} folder_id;

typedef struct walk {
    ix_scan *scan;
    const char *root;
    const ix_talk *talk;
    ix_names todo, links; /* folders below the root; links to folders wait until all real folders are known */
    folder_id *seen;
    long seen_n;
    oc_err *err;
} walk;

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

/* Room for one more element: arrays here may be full at every power of two. (One that shrinks and grows past it again is merely cut to what it
 * needs.) */
static void *grow(void *p, long n, size_t each) { return n & (n - 1) ? p : realloc(p, (size_t)(n ? n * 2 : 1) * each); }

static int push(ix_names *names, char *name, oc_err *err)
{
    char **p = name ? grow(names->p, names->n, sizeof *p) : NULL;
    if (!p) {
        free(name);
        return bs_err(err, "out of memory: a list of folders");
    }
    names->p = p;
    names->p[names->n++] = name;
    return 0;
}

static void names_clear(ix_names *names)
{
    for (long i = 0; i < names->n; i++)
        free(names->p[i]);
    free(names->p);
    *names = (ix_names){0};
}

static int push_file(walk *w, char *path, const struct stat *st)
{
    ix_file *p = grow(w->scan->files, w->scan->n, sizeof *p);
    if (!p) {
        free(path);
        return bs_err(w->err, "out of memory: the list of pictures");
    }
    w->scan->files = p;
    p[w->scan->n++] = (ix_file){path, st->st_size, (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec};
    return 0;
}

/* ---- folders entered -------------------------------------------------------------------------------------------------- */

static bool entered(const walk *w, const struct stat *st)
{
    for (long i = 0; i < w->seen_n; i++)
        if (w->seen[i].dev == st->st_dev && w->seen[i].ino == st->st_ino)
            return true;
    return false;
}

static int enter(walk *w, const struct stat *st)
{
    folder_id *p = grow(w->seen, w->seen_n, sizeof *p);
    if (!p)
        return bs_err(w->err, "out of memory: the list of folders");
    w->seen = p;
    p[w->seen_n++] = (folder_id){st->st_dev, st->st_ino};
    return 0;
}

/* ---- one entry ---------------------------------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 3, 4))) say(const walk *w, bool trouble, const char *format, ...)
{
    oc_err line = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(line.text, sizeof line.text, format, args);
    va_end(args);
    if (trouble)
        w->scan->troubles++;
    void (*to)(void *, const char *) = trouble ? w->talk->trouble : w->talk->word;
    if (to)
        to(w->talk->arg, line.text);
}

static bool one_of(const char *name, const char *const *endings)
{
    const char *dot = strrchr(name, '.');
    for (; dot && *endings; endings++)
        if (!strcasecmp(dot, *endings))
            return true;
    return false;
}

static bool is_picture(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp", NULL};
    return one_of(name, endings);
}

static bool is_other_picture(const char *name)
{
    static const char *const endings[] = {".heic", ".heif", ".avif", ".jxl", ".gif", ".bmp",
                                          ".tif",  ".tiff", ".svg",  ".jp2", NULL};
    return one_of(name, endings);
}

/* Takes path. */
static int take_entry(walk *w, char *path, const char *name, const struct stat *st, bool link)
{
    if (S_ISDIR(st->st_mode))
        return push(link ? &w->links : &w->todo, path, w->err);
    if (is_picture(name) && S_ISREG(st->st_mode))
        return push_file(w, path, st);
    if (is_picture(name))
        say(w, true, "cannot read '%s': not a regular file", path);
    else if (S_ISREG(st->st_mode) && is_other_picture(name))
        w->scan->unsupported++;
    free(path);
    return 0;
}

static int look_at(walk *w, int dir, const char *below, const char *name)
{
    struct stat own, st;
    if (name[0] == '.' || fstatat(dir, name, &own, AT_SYMLINK_NOFOLLOW))
        return 0; /* hidden, or gone since the folder was read */
    bool link = S_ISLNK(own.st_mode);
    char *path = bs_join(below[0] ? below : NULL, name);
    if (!path)
        return bs_err(w->err, "out of memory: a file's name");
    if (!link || !fstatat(dir, name, &st, 0))
        return take_entry(w, path, name, link ? &st : &own, link);
    if (is_picture(name) || errno == ELOOP)
        say(w, true, "cannot follow the link '%s': %s", path, strerror(errno));
    free(path);
    return 0;
}

/* ---- one folder ---------------------------------------------------------------------------------------------------------- */

static int read_entries(walk *w, DIR *dir, const char *below)
{
    struct dirent *e;
    while ((errno = 0, e = readdir(dir)))
        if (look_at(w, dirfd(dir), below, e->d_name))
            return -1;
    if (!errno)
        return 0;
    say(w, true, "cannot read all of the folder '%s': %s", below, strerror(errno));
    return push(&w->scan->blind, bs_strdup(below), w->err);
}

static int unreadable(walk *w, const char *below, int why)
{
    if (!below[0])
        return bs_err(w->err, "cannot read the folder '%s': %s", w->root, strerror(why));
    if (why == ENOENT)
        return 0;
    say(w, true, "cannot read the folder '%s': %s", below, strerror(why));
    return push(&w->scan->blind, bs_strdup(below), w->err);
}

/* `once`: a link led here, so it may be a folder that was entered by its own name. */
static int read_folder(walk *w, const char *below, bool once)
{
    char *path = below[0] ? bs_join(w->root, below) : bs_strdup(w->root);
    struct stat st;
    if (!path)
        return bs_err(w->err, "out of memory: a folder's name");
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), why = errno, result;
    free(path);
    if (fd < 0)
        return unreadable(w, below, why);
    if (fstat(fd, &st) || (once && entered(w, &st))) {
        say(w, false, "'%s' leads to a folder that is indexed already", below);
        close(fd);
        return 0;
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        result = unreadable(w, below, errno);
        close(fd);
        return result;
    }
    result = enter(w, &st) || read_entries(w, dir, below) ? -1 : 0;
    closedir(dir);
    return result;
}

/* Everything on the list of folders, which grows meanwhile. */
static int read_todo(walk *w, bool once)
{
    while (w->todo.n) {
        char *below = w->todo.p[--w->todo.n];
        int result = read_folder(w, below, once);
        free(below);
        if (result)
            return -1;
    }
    return 0;
}

/* ---- all -------------------------------------------------------------------------------------------------------------------- */

static int by_path(const void *a, const void *b) { return strcmp(((const ix_file *)a)->path, ((const ix_file *)b)->path); }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int read_links(walk *w)
{
    while (w->links.n) {
        ix_names links = w->links;
        w->links = (ix_names){0};
        qsort(links.p, (size_t)links.n, sizeof *links.p, by_name);
        int result = 0;
        for (long i = 0; !result && i < links.n; i++)
            result = push(&w->todo, bs_strdup(links.p[i]), w->err) || read_todo(w, true) ? -1 : 0;
        names_clear(&links);
        if (result)
            return -1;
    }
    return 0;
}

int ix_scan_folder(ix_scan *scan, const char *folder, const ix_talk *talk, oc_err *err)
{
    *scan = (ix_scan){0};
    walk w = {.scan = scan, .root = folder, .talk = talk, .err = err};
    int result = read_folder(&w, "", false) || read_todo(&w, false) || read_links(&w) ? -1 : 0;
    names_clear(&w.todo);
    names_clear(&w.links);
    free(w.seen);
    if (result)
        ix_scan_clear(scan);
    else if (scan->n)
        qsort(scan->files, (size_t)scan->n, sizeof *scan->files, by_path);
    return result;
}

void ix_scan_clear(ix_scan *scan)
{
    for (long i = 0; i < scan->n; i++)
        free(scan->files[i].path);
    free(scan->files);
    names_clear(&scan->blind);
    *scan = (ix_scan){0};
}

bool ix_scan_blind(const ix_scan *scan, const char *path)
{
    for (long i = 0; i < scan->blind.n; i++) {
        size_t n = strlen(scan->blind.p[i]);
        if (!strncmp(path, scan->blind.p[i], n) && path[n] == '/')
            return true;
    }
    return false;
}
