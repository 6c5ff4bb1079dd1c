// Routed experts that stay on disk, under a limit of memory (docs/inference-memory.md).
//
// Everything else of the model is resident. What the limit leaves is a pool of slots, each of which holds one expert as
// the files store it. A layer goes through its experts in runs:
//
//   expert_request      after routing: those in the pool are pinned, reads of the others begin
//   expert_read_ahead   the next layer's router, applied to this layer's hidden state, guesses what it will need
//   expert_acquire      the next run of experts whose weights are in memory; waits for reads if there is none yet
//   expert_release      after the products of the run: its slots may be used for others
//
// so that experts that are present are computed while others are being read, and a layer may need more experts than
// there are slots. Rows of different experts never meet before combine, so the bits do not depend on the runs.
//
// Which expert leaves: the one with the lowest exponentially decayed count of tokens routed to it (EXPERT_HALF_LIFE
// tokens). A prompt, which passes through all experts of all layers, then cannot wash out those that are used often.
//
// All calls from one thread. A read that fails sets op->error; the layer's results are then void.
#ifndef MINKE_MODEL_EXPERTS_H
#define MINKE_MODEL_EXPERTS_H

#include "model/dispatch.h"
#include "model/params.h"
#include "model/pass.h"
#include "weights/checkpoint.h"

struct expert_store;
struct expert_layer;   // of one MoE layer: moe_params.streamed

struct expert_options {
    int64_t ram_bytes;   // what the process may use, this store and all else on our heap
    int64_t slots;       // > 0: exactly so many, whatever ram_bytes says
};
// params as model_map left them: reads everything but the routed experts into memory and lets params point there; the
// experts' tables have data NULL from now on, but between acquire and release. The checkpoint must outlive the store.
int expert_store_create(struct expert_store **store, struct model_params *params, const struct model_config *config,
                        struct checkpoint *checkpoint, const struct expert_options *options, struct error *error);
void expert_store_destroy(struct expert_store *store);   // NULL is fine; params are unusable afterwards

struct expert_run {
    int64_t begin, end;   // slots of the plan
};
void expert_request(struct op_context *op, struct expert_layer *layer, const struct dispatch_plan *plan);
void expert_read_ahead(const struct pass *pass, struct expert_layer *layer, const struct tensor *h);
// false: all of the plan's experts have been released, or op->error is set.
bool expert_acquire(struct op_context *op, struct expert_run *run, struct expert_layer *layer,
                    const struct dispatch_plan *plan);
void expert_release(struct expert_layer *layer, const struct expert_run *run, const struct dispatch_plan *plan);

struct expert_statistics {
    int64_t limit_bytes, resident_bytes;   // what was asked for; weights that always stay
    int64_t expert_bytes, experts;         // of one slot; routed experts in the files
    int64_t slots, slots_used;             // that fit at present; that hold memory
    int64_t hits, late, misses;            // experts requested that were there; whose read ahead was under way; others
    int64_t bytes_read;                    // of experts
    int64_t guesses, right_guesses;        // experts that read-ahead named; those that were then requested
    double stall_seconds;                  // spent waiting for reads
};
void expert_store_statistics(struct expert_statistics *statistics, const struct expert_store *store);

#endif
