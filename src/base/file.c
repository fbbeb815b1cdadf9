/* file.c - maps, whole reads, outputs that appear whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base.h"

int bs_map_open(bs_map *m, const char *path, oc_err *err)
{
    memset(m, 0, sizeof *m);
    int result = -1, fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return bs_err(err, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, &st)) {
        bs_err(err, "cannot open '%s': %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        bs_err(err, "cannot open '%s': not a regular file", path);
        goto done;
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            bs_err(err, "cannot map '%s': %s", path, strerror(errno));
            goto done;
        }
        m->p = p;
        m->n = (size_t)st.st_size;
    }
    result = 0;
done:
    close(fd);
    return result;
}

void bs_map_close(bs_map *m)
{
    if (m->p)
        munmap((void *)(uintptr_t)m->p, m->n);
    memset(m, 0, sizeof *m);
}

void bs_map_release(const bs_map *m, size_t at, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t first = (at + page - 1) / page * page, last = (at + n) / page * page;
    if (m->p && last > first && last <= m->n)
        madvise((void *)(uintptr_t)(m->p + first), last - first, MADV_DONTNEED);
}

int bs_read_file(bs_buf *b, const char *path, size_t max, oc_err *err)
{
    bool in = strcmp(path, "-") == 0;
    FILE *f = in ? stdin : fopen(path, "rb");
    if (!f)
        return bs_err(err, "cannot open '%s': %s", path, strerror(errno));
    int result = -1;
    b->n = 0;
    b->max = max;
    char part[65536];
    size_t n;
    struct stat about;
    bool sized = !fstat(fileno(f), &about) && S_ISREG(about.st_mode);
    if (bs_buf_reserve(b, sized ? (size_t)about.st_size : 0, err) || bs_buf_put(b, "", 0, err)) {
        bs_err_prefix(err, "cannot read '%s': ", path);
        goto done;
    }
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        if (bs_buf_put(b, part, n, err)) {
            bs_err_prefix(err, "cannot read '%s': ", path);
            goto done;
        }
    if (ferror(f)) {
        bs_err(err, "cannot read '%s': %s", path, strerror(errno));
        goto done;
    }
    result = 0;
done:
    if (!in)
        fclose(f);
    return result;
}

/* What a process left that was killed while it wrote this very file. */
static void remove_orphans(const char *path)
{
    char pattern[4096];
    glob_t found;
    if (snprintf(pattern, sizeof pattern, "%s.tmp-[0-9]*", path) >= (int)sizeof pattern ||
        glob(pattern, GLOB_NOSORT, NULL, &found))
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *end, *pid = strrchr(found.gl_pathv[i], '-') + 1;
        long owner = strtol(pid, &end, 10);
        if (!*end && owner > 0 && kill((pid_t)owner, 0) && errno == ESRCH)
            unlink(found.gl_pathv[i]);
    }
    globfree(&found);
}

/* A device or a pipe is written to as it is: a rename would put a file in its place. So is a circle of links, which cannot be opened. */
static bool takes_bytes_directly(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        return errno == ELOOP;
    return !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* What the symbolic link `path` names, beside the link where that is relative; NULL when it is none. */
static char *target_of_link(const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return NULL;
    target[n] = 0;
    char *folder = bs_strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash)
        slash[slash == folder] = 0;
    char *place = folder ? bs_join(slash ? folder : NULL, target) : NULL;
    free(folder);
    return place;
}

/* The place behind all links, which need not exist. */
static char *place_of(const char *path)
{
    char *place = bs_strdup(path), *next;
    for (int hops = 0; place && hops < 40 && (next = target_of_link(place)); hops++) {
        free(place);
        place = next;
    }
    return place;
}

int bs_out_open(bs_out *o, const char *path, oc_err *err)
{
    memset(o, 0, sizeof *o);
    bool direct = takes_bytes_directly(path);
    o->path = direct ? bs_strdup(path) : place_of(path);
    size_t n = o->path ? strlen(o->path) + 32 : 0;
    o->tmp = direct || !o->path ? NULL : malloc(n);
    if (!direct && o->path)
        remove_orphans(o->path);
    if (!o->path || (!direct && !o->tmp)) {
        bs_out_abort(o);
        return bs_err(err, "out of memory: the name of '%s'", path);
    }
    if (!direct)
        snprintf(o->tmp, n, "%s.tmp-%ld", o->path, (long)getpid());
    o->f = fopen(direct ? path : o->tmp, "wb");
    if (!o->f) {
        bs_err(err, "cannot write '%s': %s", path, strerror(errno));
        bs_out_abort(o);
        return -1;
    }
    return 0;
}

int bs_out_write(bs_out *o, const void *bytes, size_t n, oc_err *err)
{
    if (n && fwrite(bytes, 1, n, o->f) != n)
        return bs_err(err, "cannot write '%s': %s", o->path, strerror(errno));
    return 0;
}

/* A rename is only lasting once the folder that holds the name is on disk as well. */
static void sync_folder_of(const char *path)
{
    char *copy = bs_strdup(path);
    if (!copy)
        return;
    char *slash = strrchr(copy, '/');
    if (slash)
        slash[slash == copy] = 0;
    int fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(copy);
}

int bs_out_commit(bs_out *o, oc_err *err)
{
    bool bad = fflush(o->f) || ferror(o->f) || (o->tmp && fsync(fileno(o->f)));
    int why = errno;
    if (fclose(o->f) && !bad) {
        bad = true;
        why = errno;
    }
    o->f = NULL;
    if (!bad && o->tmp && rename(o->tmp, o->path)) {
        bad = true;
        why = errno;
    }
    int result = bad ? bs_err(err, "cannot write '%s': %s", o->path, strerror(why)) : 0;
    if (!bad && o->tmp) {
        sync_folder_of(o->path);
        free(o->tmp);
        o->tmp = NULL;
    }
    bs_out_abort(o);
    return result;
}

void bs_out_abort(bs_out *o)
{
    if (o->f)
        fclose(o->f);
    if (o->tmp)
        unlink(o->tmp);
    free(o->tmp);
    free(o->path);
    memset(o, 0, sizeof *o);
}

int bs_write_file(const char *path, const void *bytes, size_t n, oc_err *err)
{
    bs_out o;
    if (bs_out_open(&o, path, err))
        return -1;
    if (bs_out_write(&o, bytes, n, err)) {
        bs_out_abort(&o);
        return -1;
    }
    return bs_out_commit(&o, err);
}

int bs_mkdirs(const char *path, oc_err *err)
{
    char *copy = bs_strdup(path);
    if (!copy)
        return bs_err(err, "out of memory: the name of '%s'", path);
    int result = 0;
    for (char *c = copy + 1; !result; c++) {
        if (*c && *c != '/')
            continue;
        char keep = *c;
        *c = 0;
        if (copy[0] && mkdir(copy, 0777) && errno != EEXIST)
            result = bs_err(err, "cannot make the folder '%s': %s", copy, strerror(errno));
        *c = keep;
        if (!keep)
            break;
    }
    if (!result && !bs_is_dir(path))
        result = bs_err(err, "cannot make the folder '%s': a file is in the way", path);
    free(copy);
    return result;
}

/* The folder itself carries the lock, so none is left lying about. A file system without locks has no one to refuse. */
int bs_claim_folder(bs_claim *c, const char *path, oc_err *err)
{
    *c = (bs_claim){.fd = -1};
    bool made = !bs_is_dir(path);
    if (bs_mkdirs(path, err))
        return -1;
    c->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->fd >= 0 && flock(c->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(c->fd);
        return bs_err(err, "'%s' is in use: another run writes there", path);
    }
    c->made = made;
    c->path = bs_strdup(path);
    if (c->path)
        return 0;
    if (c->fd >= 0)
        close(c->fd);
    return bs_err(err, "out of memory: the name of '%s'", path);
}

void bs_claim_end(bs_claim *c)
{
    if (!c->path)
        return;
    if (c->made)
        rmdir(c->path); /* fails unless it is empty */
    if (c->fd >= 0)
        close(c->fd);
    free(c->path);
    *c = (bs_claim){.fd = -1};
}

bool bs_is_dir(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

bool bs_is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

char *bs_join(const char *a, const char *b)
{
    if (!a || b[0] == '/')
        return bs_strdup(b);
    size_t n = strlen(a) + strlen(b) + 2;
    char *p = malloc(n);
    if (p)
        snprintf(p, n, "%s%s%s", a, a[0] && a[strlen(a) - 1] != '/' ? "/" : "", b);
    return p;
}
