// A Hugging Face model directory as a set of named tensors: model.safetensors or model-*.safetensors with their index
// (spec 11.2-11.5). Reading joins `<name>` (F8_E4M3) with `<name>_scale_inv` (looked up through the index: it may stand
// in another file).
#ifndef MINKE_WEIGHTS_CHECKPOINT_H
#define MINKE_WEIGHTS_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"
#include "weights/safetensors.h"

struct checkpoint;   // mapped, read-only; shards are opened when first needed (a 163-shard directory opens at once)

int checkpoint_open(struct checkpoint **checkpoint, const char *directory, struct error *error);
void checkpoint_close(struct checkpoint *checkpoint);
const char *checkpoint_directory(const struct checkpoint *checkpoint);
int64_t checkpoint_count(const struct checkpoint *checkpoint);
int64_t checkpoint_shards(const struct checkpoint *checkpoint);
// Sorted by name; scales are listed too.
const char *checkpoint_name(const struct checkpoint *checkpoint, int64_t index);
// File name; shards are sorted by it.
const char *checkpoint_shard_name(const struct checkpoint *checkpoint, int64_t shard);
bool checkpoint_holds(const struct checkpoint *checkpoint, int64_t shard, const char *name);   // by the index
// Opens (once) and checks a shard: its header, and that every tensor which the index puts there is in it.
int checkpoint_shard_open(struct checkpoint *checkpoint, const struct safetensors **file, int64_t shard,
                          struct error *error);
bool checkpoint_has(const struct checkpoint *checkpoint, const char *name);
// The tensor as mapped, with its scales joined. Errors: unknown name, missing or misshapen scale, unreadable shard.
int checkpoint_find(struct checkpoint *checkpoint, struct tensor *tensor, const char *name, struct error *error);
// The same and its shape must be as given: "<file>: tensor \"<name>\": expected shape [a, b], found [c, d]".
int checkpoint_expect(struct checkpoint *checkpoint, struct tensor *tensor, const char *name, int rank,
                      const int64_t *shape, struct error *error);

// Where a tensor's bytes stand (without its scales), for reading them past the mapping.
struct checkpoint_range {
    const char *path;   // of the shard; lives as long as the checkpoint
    int64_t shard, offset, bytes;
};
int checkpoint_locate(struct checkpoint *checkpoint, struct checkpoint_range *range, const char *name,
                      struct error *error);

// Whether `name` is the scale tensor of an FP8 tensor ("<tensor>_scale_inv").
bool checkpoint_name_is_scale(const char *name);

// Writing a directory (which must hold no weights yet; on failure what was written is removed again): tensors are
// announced in order (the plan), cut into shards of at most `shard_bytes` (a tensor and its scales stay together), then
// written. Names model-00001-of-000NNN.safetensors, or model.safetensors if it is a single shard; index JSON with
// metadata.total_size. E4M3_BLOCK tensors write `<name>` and `<name>_scale_inv`. Data is fetched one tensor at a time,
// so a model larger than memory can be written.
struct checkpoint_plan_entry {
    const char *name;
    enum format format;   // F32, BF16 or E4M3_BLOCK
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
};
// fetch fills *tensor (packed, of the announced format and shape, valid until the next call) for entry `index`.
typedef int (*checkpoint_fetch)(void *argument, struct tensor *tensor, int64_t index, struct error *error);
int checkpoint_write(const char *directory, const struct checkpoint_plan_entry *entries, int64_t count,
                     int64_t shard_bytes, checkpoint_fetch fetch, void *argument,
                     void (*progress)(void *argument, int64_t bytes_done), struct error *error);

// ERROR_ARGUMENT if the directory holds weights or an index: what checkpoint_write demands, for asking first.
int checkpoint_check_absent(const char *directory, struct error *error);

// Whether the official FP8 checkpoints store this tensor as E4M3 with scales: the 2-D projections of attention and
// experts of every layer (names ending in _proj.weight or kv_a_proj_with_mqa.weight), not eh_proj, gate, embeddings,
// head and norms.
bool checkpoint_name_is_fp8(const char *name);

#endif
