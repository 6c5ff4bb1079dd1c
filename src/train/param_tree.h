// One value per parameter of the model - masters, moments, gradients, averages, compute weights - as the structure the
// model takes and as the list that pairs them index by index (every tree of one configuration lists the same parameters
// in the same order).
#ifndef MINKE_TRAIN_PARAM_TREE_H
#define MINKE_TRAIN_PARAM_TREE_H

#include "model/params.h"

struct param_tree {
    struct model_params params;
    struct param_list list;   // a tensor may be absent: the router bias has no gradient and no moments
    int64_t bytes;
};

enum param_scope { SCOPE_ALL, SCOPE_TRAINED };   // with or without the router biases
// Zeroed memory of one format in `arena`; with keep_small_f32 norms, routers and their biases are F32 whatever the
// format.
int param_tree_create(struct param_tree *tree, const struct model_config *config, enum format format,
                      bool keep_small_f32, enum param_scope scope, struct arena *arena, struct error *error);
// A tree without tensors, to be pointed at mapped ones.
int param_tree_create_empty(struct param_tree *tree, const struct model_config *config, struct arena *arena,
                            struct error *error);
// Gradients before a first micro-batch: zeroes those that it adds to (model_gradient_is_set).
void param_tree_zero_added(struct op_context *op, struct param_tree *tree);
// Every tensor present in both: value by value, rounded to the format of `to`; E4M3 blocks are multiplied out.
void param_tree_copy(struct op_context *op, struct param_tree *to, const struct param_tree *from);
// Moves every trained element of an F32 tree up or down by `ulps` units in the last place; zeros stay.
void param_tree_perturb(struct param_tree *tree, uint64_t seed, int64_t ulps);
// to (f32) += from, the same tensors present in both.
void param_tree_add(struct op_context *op, struct param_tree *to, const struct param_tree *from);

// One safetensors file with the tensors of one or more trees; names are the checkpoint's with the tree's prefix in
// front.
struct param_tree_part {
    const char *prefix;
    struct param_tree *tree;
};
int param_tree_write(const char *path, const struct param_tree_part *parts, int count, struct error *error);
// Every tensor present in the trees must be in the file with the same format and shape; nothing else may be in the
// file.
int param_tree_read(const struct param_tree_part *parts, int count, const char *path, struct error *error);

#endif
