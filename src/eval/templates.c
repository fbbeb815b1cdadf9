/* templates.c - template sets of our own wording. Several ways to say the same leave less of the sentence and more of the label. */
#include "templates.h"

#include <stdlib.h>
#include <string.h>

static const char *const plain[] = {"{}"};

static const char *const photo[] = {
    "a photo of {}",         "a photo of one {}",   "a close look at {}", "a snapshot that shows {}",
    "{} seen from nearby",   "{} in the distance",  "a dark photo of {}", "a bright photo of {}",
    "a blurred photo of {}", "a sharp photo of {}", "part of {}",         "many {} in one photo",
};

static const char *const drawing[] = {
    "{}",
    "a drawing of {}",
    "an icon of {}",
    "a small picture of {}",
    "a simple sketch of {}",
    "a coloured drawing of {}",
    "clip art of {}",
    "a symbol that stands for {}",
};

static const char *const photo_zh[] = {
    "{}的照片", "一张{}的照片", "近处的{}", "远处的{}", "照片里有{}", "一张清晰的{}照片", "一张模糊的{}照片", "{}的一部分",
};

static const char *const drawing_zh[] = {
    "{}", "{}的图画", "{}的图标", "一幅{}的小图", "简笔画：{}", "彩色的{}图案", "代表{}的符号",
};

#define SET(name) \
    { \
#name, name, (int)(sizeof name / sizeof name[0]) \
    }
static const ev_template_set sets[] = {SET(plain), SET(photo), SET(drawing), SET(photo_zh), SET(drawing_zh)};
#undef SET

const ev_template_set *ev_template_sets(int *count)
{
    *count = (int)(sizeof sets / sizeof sets[0]);
    return sets;
}

const ev_template_set *ev_template_find(const char *name)
{
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        if (!strcmp(sets[i].name, name))
            return &sets[i];
    return NULL;
}

int ev_template_check(const char *template, oc_err *err)
{
    return strstr(template, "{}") ? 0 : bs_err(err, "the template '%s' has no {} where the label goes", template);
}

char *ev_template_fill(const char *template, const char *label)
{
    size_t places = 0, n = strlen(label);
    for (const char *p = template; (p = strstr(p, "{}")); p += 2)
        places++;
    char *text = malloc(strlen(template) + places * n + 1), *to = text;
    if (!text)
        return NULL;
    for (const char *place; (place = strstr(template, "{}")); template = place + 2) {
        memcpy(to, template, (size_t)(place - template));
        to += place - template;
        memcpy(to, label, n);
        to += n;
    }
    strcpy(to, template);
    return text;
}
