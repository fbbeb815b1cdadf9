/* caption_tokens.h - a caption as the words that BLEU and CIDEr count.
 *
 * After the Penn Treebank's rules as Stanford's PTBTokenizer 3.4.1 has them (-lowerCase), less the punctuation that coco-caption takes away:
 * what that evaluation counts, without Java.
 *
 *     The dog's ball isn't here, it's 10:30 a.m.   ->   the dog 's ball is n't here it 's 10:30 a.m.
 *
 * - lower case; words with hyphens, and two words with a slash, are one (black-and-white, his/her); so are 1,000 and 3.5 and 1/2
 * - 's 'm 'd 're 've 'll and n't are words of their own; cannot, gonna, wanna, gotta, gimme, lemme are two
 * - a full stop stays with an initial (j.), an acronym (u.s.) and a known abbreviation (mr., st., etc.)
 * - . , : ; - -- ... and a single ! or ? and all quotes go; brackets stay, as -lrb- and -rrb- and so on: coco-caption looks for them in upper case,
 *   and finds none
 * - $ % & # + and other signs are words
 *
 * And rules of its own: every Chinese character (and every kana) is a word, as is usual for Chinese captions; punctuation outside ASCII, such as
 * the Chinese, goes; a curly apostrophe is a plain one (o’clock). Web addresses, entities and tags of HTML, and smileys are no words. A caption is
 * read by itself: Stanford's lets the next line decide whether an initial at the end keeps its stop, here it does not. Of 84,854 short descriptions of
 * drawings 403 differ: 346 by curly apostrophes, 54 by entities, 3 by a web address. tests/data/captions/tokens.txt holds hard ones that agree. */
#ifndef EV_CAPTION_TOKENS_H
#define EV_CAPTION_TOKENS_H

#include "../base/base.h"

/* Appends the words of a caption in UTF-8, with one space between two; bytes that are no UTF-8 are left out. */
int ev_caption_tokens(bs_buf *out, const char *text, oc_err *err);

#endif
