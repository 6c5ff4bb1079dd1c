// `minke init` for other commands: random weights in the layout of a checkpoint.
#ifndef MINKE_APP_INIT_H
#define MINKE_APP_INIT_H

#include "model/config.h"
#include "op/ops.h"

// Normal(0, initializer_range) by (seed, name, element) into `directory`, which is made if it is missing (and removed
// again after a failure). No tokenizer.
int init_write_model(const char *directory, const struct model_config *config, enum format format, uint64_t seed,
                     struct op_context *op, struct error *error);

#endif
