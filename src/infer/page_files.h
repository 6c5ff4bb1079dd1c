// The prefix cache on disk: pages of an engine, one file each, so that prefixes survive a restart.
//
//     <directory>/<name of weights, form, format and layers: 32 hex>/<name of the content, 32 hex>.page
//
// A file is a header (struct page_file_header) and the memory of the page. It is written aside by a thread of its own,
// synced and renamed; its checksum covers everything, and the header repeats what it is of, so that a damaged or
// foreign file is never taken for a page: it is removed with a warning. When the files outgrow their bound, those that
// were not used for the longest time go. Processes may share a directory.
#ifndef MINKE_INFER_PAGE_FILES_H
#define MINKE_INFER_PAGE_FILES_H

#include "infer/pages.h"

struct page_files;

struct page_files_options {
    const char *directory;      // made if it is missing
    const char *weights_name;   // whose keys these are
    int64_t bytes;              // bound; 0 = none
};
int page_files_open(struct page_files **files, struct page_pool *pool, const struct page_files_options *options,
                    struct error *error);
void page_files_close(struct page_files *files);   // saves what is not saved yet; NULL is fine

// Reads the page that follows `chain` into the pool and registers it; it has one reference then. -1: there is none.
int32_t page_files_load(struct page_files *files, const struct page_chain *chain, const struct page_want *want);
// Hands registered pages over to the writing thread, as many as it can take now.
void page_files_save_some(struct page_files *files);
// Returns when everything handed over is on disk.
void page_files_wait(struct page_files *files);

#endif
