// Positional reads of large pieces by background threads, in the order of two priorities.
//
// A job is a list of byte ranges of files and the memory they go to. It is cut into pieces of READ_PIECE bytes, so that
// several threads work on one job and the disk always has a few requests to choose from. Urgent jobs go before all
// others, also in the middle of them. A job belongs to its submitter, who may touch it again when it is done or
// cancelled. Submitting, asking and waiting are for one thread; nothing allocates after read_queue_create.
#ifndef MINKE_BASE_READ_QUEUE_H
#define MINKE_BASE_READ_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/file.h"

#define READ_PARTS 3
#define READ_PIECE ((int64_t)4 << 20)

struct read_part {
    const struct random_file *file;
    int64_t offset, size, needed;   // as file_read_blocks takes them
    uint8_t *data;
};

struct read_job {
    struct read_part parts[READ_PARTS];
    int part_count;
    // The queue's own:
    enum read_state { READ_IDLE, READ_QUEUED, READ_DONE } state;
    bool urgent;
    int part;             // the next piece: of which part,
    int64_t at;           // and from where in it
    int64_t unfinished;   // pieces begun and not done
    struct read_job *next;
    struct error error;   // of a job that is done: code 0, or why its memory is not what it should be
};

struct read_queue;
int read_queue_create(struct read_queue **queue, int threads, struct error *error);
void read_queue_destroy(
    struct read_queue *queue);   // waits for pieces that were begun and drops the rest; NULL is fine

void read_queue_submit(struct read_queue *queue, struct read_job *job, bool urgent);
void read_queue_hurry(struct read_queue *queue, struct read_job *job);    // makes it urgent if it still waits
bool read_queue_cancel(struct read_queue *queue, struct read_job *job);   // true: nothing of it was begun, it is idle
// Whether the job is done; it is idle afterwards.
bool read_queue_take(struct read_queue *queue, struct read_job *job);
// Waits until a job is done that was not so when read_queue_take last looked at all jobs, as counted by *seen (0 at the
// start). Must not be called without a job in the queue.
void read_queue_wait(struct read_queue *queue, uint64_t *seen);
uint64_t read_queue_finished(struct read_queue *queue);   // jobs done so far: what *seen is set to

#endif
