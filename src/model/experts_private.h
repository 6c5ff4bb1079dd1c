// What experts.c (use) and experts_load.c (opening) share.
#ifndef MINKE_MODEL_EXPERTS_PRIVATE_H
#define MINKE_MODEL_EXPERTS_PRIVATE_H

#include "base/read_queue.h"
#include "model/experts.h"

#define EXPERT_JOBS 64      // reads under way or queued
#define EXPERT_READERS 4    // threads
#define EXPERT_MATRICES 3   // gate, up, down

struct expert_matrix {   // where one matrix stands in the files
    int32_t file;        // of store->files
    int64_t offset, bytes;
};

struct expert {
    struct expert_matrix matrix[EXPERT_MATRICES];
    int32_t slot;                                                  // -1: not in the pool
    enum expert_need { NEED_NONE, NEED_READ, NEED_PINNED } need;   // of the pass at hand
    bool guessed;                                                  // by read-ahead, for the request to come
    double rank;   // ln(decayed count) + clock * decay: grows with use, and its order does not change with time
};

struct expert_layer {
    struct expert_store *store;
    struct moe_params *params;
    struct expert *experts;             // [E]
    struct expert_layer *next;          // MoE layer that the main model runs after this one, or NULL
    const struct block_params *block;   // this layer
    int64_t needed;                     // experts of the request that are not released yet
};

struct expert_slot {
    enum { SLOT_EMPTY, SLOT_LOADING, SLOT_READY } state;
    struct expert_layer *layer;
    int32_t expert;
    int32_t job;      // while loading
    bool pinned;      // by the request at hand
    bool ahead;       // its read began before the request at hand
    bool committed;   // its pages hold memory
};

struct expert_store {
    struct expert_options options;
    int64_t experts_per_layer, top_k;
    struct arena arena;   // resident weights
    int64_t resident_bytes;
    struct random_file *files;   // [file_count] one per shard
    int64_t file_count;
    struct expert_layer *layers;   // [layer_count] main model, then MTP
    int64_t layer_count;
    struct expert *experts;   // [layer_count, E]
    uint8_t *memory;          // [slot_count] slots of slot_bytes, reserved
    int64_t slot_bytes, slot_count;
    int64_t slot_limit;   // slots that may hold memory at present
    struct expert_slot *slots;
    struct read_queue *queue;
    struct read_job *jobs;   // [EXPERT_JOBS]
    int32_t *job_slot;       // [EXPERT_JOBS] -1 = free
    uint64_t seen;           // of the queue's finished jobs
    int64_t clock;           // tokens that passed the first MoE layer
    struct expert_statistics counts;
};

// The reads that fill a slot: matrices that (nearly) touch become one. place[m] is where matrix m then begins. Returns
// the bytes of memory they take.
int64_t expert_reads(const struct expert_store *store, const struct expert *expert, struct read_job *job,
                     uint8_t *memory, uint8_t *place[EXPERT_MATRICES]);
// What counts against the limit besides slots: the heap and the program itself.
int64_t expert_other_bytes(void);
// Slots that the limit allows now.
int64_t expert_slot_limit(const struct expert_store *store);

#endif
