// Finding the name that a person may have meant.
#ifndef MINKE_BASE_SPELLING_H
#define MINKE_BASE_SPELLING_H

// Letters to insert, delete or replace to turn one word into the other (Levenshtein), for words of up to 63
// letters; longer ones are as far apart as can be (63).
int spelling_distance(const char *left, const char *right);

#endif
