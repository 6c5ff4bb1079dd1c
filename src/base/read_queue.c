// Background reads; see read_queue.h. One lock guards everything; it is held for a few instructions per piece of
// megabytes.
#include "base/read_queue.h"

#include <pthread.h>

#include "base/memory.h"

struct list {
    struct read_job *first, *last;
};

struct read_queue {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct list urgent, later;   // jobs with pieces that nobody has begun
    uint64_t finished;
    bool stop;
    int threads;
    pthread_t thread[];
};

static void list_append(struct list *list, struct read_job *job) {
    job->next = NULL;
    if (list->last != NULL) {
        list->last->next = job;
    } else {
        list->first = job;
    }
    list->last = job;
}

static bool list_remove(struct list *list, struct read_job *job) {
    struct read_job *before = NULL;
    for (struct read_job *at = list->first; at != NULL; before = at, at = at->next) {
        if (at == job) {
            *(before != NULL ? &before->next : &list->first) = job->next;
            list->last = list->last == job ? before : list->last;
            return true;
        }
    }
    return false;
}

static struct list *list_of(struct read_queue *queue, const struct read_job *job) {
    return job->urgent ? &queue->urgent : &queue->later;
}

// ---- Threads -------------------------------------------------------------------------------------------------------

struct piece {
    struct read_job *job;
    const struct random_file *file;
    uint8_t *data;
    int64_t offset, size, needed;
};

// Takes the next piece of the job at the head. The lock is held.
static bool piece_take(struct read_queue *queue, struct piece *piece) {
    struct list *list = queue->urgent.first != NULL ? &queue->urgent : &queue->later;
    struct read_job *job = list->first;
    if (job == NULL) {
        return false;
    }
    const struct read_part *part = &job->parts[job->part];
    int64_t left = part->size - job->at, size = left < READ_PIECE ? left : READ_PIECE;
    int64_t needed = part->needed - job->at;
    *piece = (struct piece){.job = job,
                            .file = part->file,
                            .data = part->data + job->at,
                            .offset = part->offset + job->at,
                            .size = size,
                            .needed = needed < size ? needed : size};
    job->unfinished++;
    job->at += size;
    if (job->at == part->size) {
        job->at = 0;
        job->part++;
    }
    if (job->part == job->part_count) {
        list_remove(list, job);
    }
    return true;
}

// The lock is held.
static void piece_finish(struct read_queue *queue, struct read_job *job, const struct error *error) {
    job->unfinished--;
    if (error->code != 0 && job->error.code == 0) {
        job->error = *error;
        if (job->part < job->part_count) {   // the rest is of no use
            list_remove(list_of(queue, job), job);
            job->part = job->part_count;
        }
    }
    if (job->unfinished == 0 && job->part == job->part_count) {
        job->state = READ_DONE;
        queue->finished++;
        pthread_cond_broadcast(&queue->done);
    }
}

static void *reader(void *argument) {
    struct read_queue *queue = argument;
    struct piece piece;
    pthread_mutex_lock(&queue->lock);
    while (!queue->stop) {
        if (!piece_take(queue, &piece)) {
            pthread_cond_wait(&queue->work, &queue->lock);
            continue;
        }
        pthread_mutex_unlock(&queue->lock);
        struct error error = {0};
        file_read_blocks(piece.file, piece.data, piece.size, piece.offset, piece.needed, &error);
        pthread_mutex_lock(&queue->lock);
        piece_finish(queue, piece.job, &error);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

int read_queue_create(struct read_queue **out, int threads, struct error *error) {
    CHECK(threads > 0, "%d threads", threads);
    *out = NULL;
    struct read_queue *queue = memory_allocate(1, sizeof *queue + (size_t)threads * sizeof queue->thread[0],
                                               "read queue", error);
    if (queue == NULL) {
        return ERROR_MEMORY;
    }
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->work, NULL);
    pthread_cond_init(&queue->done, NULL);
    while (queue->threads < threads) {
        int code = pthread_create(&queue->thread[queue->threads], NULL, reader, queue);
        if (code != 0) {
            read_queue_destroy(queue);
            return error_set(error, ERROR_IO, "cannot start reader thread %d of %d", queue->threads + 1, threads);
        }
        queue->threads++;
    }
    *out = queue;
    return 0;
}

void read_queue_destroy(struct read_queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_mutex_lock(&queue->lock);
    queue->stop = true;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
    for (int i = 0; i < queue->threads; i++) {
        pthread_join(queue->thread[i], NULL);
    }
    pthread_cond_destroy(&queue->done);
    pthread_cond_destroy(&queue->work);
    pthread_mutex_destroy(&queue->lock);
    memory_free(queue);
}

// ---- The submitter -------------------------------------------------------------------------------------------------

void read_queue_submit(struct read_queue *queue, struct read_job *job, bool urgent) {
    CHECK(job->part_count > 0 && job->part_count <= READ_PARTS, "%d parts", job->part_count);
    pthread_mutex_lock(&queue->lock);
    CHECK(job->state == READ_IDLE, "a job submitted twice");
    job->state = READ_QUEUED;
    job->urgent = urgent;
    job->part = 0;
    job->at = job->unfinished = 0;
    error_clear(&job->error);
    list_append(list_of(queue, job), job);
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
}

void read_queue_hurry(struct read_queue *queue, struct read_job *job) {
    pthread_mutex_lock(&queue->lock);
    if (!job->urgent && list_remove(&queue->later, job)) {
        job->urgent = true;
        list_append(&queue->urgent, job);
    }
    pthread_mutex_unlock(&queue->lock);
}

bool read_queue_cancel(struct read_queue *queue, struct read_job *job) {
    pthread_mutex_lock(&queue->lock);
    bool idle = job->state == READ_QUEUED && job->part == 0 && job->at == 0 && job->unfinished == 0 &&
                list_remove(list_of(queue, job), job);
    if (idle) {
        job->state = READ_IDLE;
    }
    pthread_mutex_unlock(&queue->lock);
    return idle;
}

bool read_queue_take(struct read_queue *queue, struct read_job *job) {
    pthread_mutex_lock(&queue->lock);
    bool done = job->state == READ_DONE;
    if (done) {
        job->state = READ_IDLE;
    }
    pthread_mutex_unlock(&queue->lock);
    return done;
}

void read_queue_wait(struct read_queue *queue, uint64_t *seen) {
    pthread_mutex_lock(&queue->lock);
    while (queue->finished == *seen) {
        pthread_cond_wait(&queue->done, &queue->lock);
    }
    pthread_mutex_unlock(&queue->lock);
}

uint64_t read_queue_finished(struct read_queue *queue) {
    pthread_mutex_lock(&queue->lock);
    uint64_t finished = queue->finished;
    pthread_mutex_unlock(&queue->lock);
    return finished;
}
