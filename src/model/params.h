// Every parameter of a model, once. The same structure holds weights, gradients, FP32 masters, moments and averages:
// params_visit walks it in one fixed order and is the only list of parameters (init, load, save, optimizer, reduction,
// counting, sharding all use it).
#ifndef MINKE_MODEL_PARAMS_H
#define MINKE_MODEL_PARAMS_H

#include "base/arena.h"
#include "model/config.h"
#include "tensor/tensor.h"

struct mla_params {                     // names as in the checkpoint under model.layers.L.self_attn
    struct tensor q_proj;               // [H*(dn+dr), d]; only when q_lora_rank == 0
    struct tensor q_a_proj;             // [q_lora, d]
    struct tensor q_a_layernorm;        // [q_lora]
    struct tensor q_b_proj;             // [H*(dn+dr), q_lora]; head i: rows i*(dn+dr).. = nope, then rope
    struct tensor kv_a_proj_with_mqa;   // [kv_lora + dr, d]: latent rows, then the shared rope key
    struct tensor kv_a_layernorm;       // [kv_lora]
    struct tensor kv_b_proj;            // [H*(dn+dv), kv_lora]; head i: dn rows of W_UK, then dv rows of W_UV
    struct tensor o_proj;               // [d, H*dv]
    // Not parameters, never visited: kv_b_proj as absorbed attention takes it (absorbed.h). In panels, or without
    // blocks when kv_b_proj is E4M3, or absent.
    struct tensor absorbed_key;     // [H*kv_lora, dn]: W_UK of head i, transposed
    struct tensor absorbed_value;   // [H*dv, kv_lora]: W_UV
    struct tensor kv_b_dense;
};

struct mlp_params {
    struct tensor gate_proj, up_proj;   // [I, d]
    struct tensor down_proj;            // [d, I]
};

struct moe_params {
    struct tensor gate;                      // [E, d]
    struct tensor e_score_correction_bias;   // f32[E]; noaux_tc only; moved by the balancing rule, not by a gradient
    struct tensor *gate_proj, *up_proj, *down_proj;   // tables of E tensors: [I, d], [I, d], [d, I]
    struct mlp_params shared_experts;                 // width n_shared_experts * I; absent when n_shared_experts == 0
    // Not a parameter: where routed experts come from when they are read from disk on demand (experts.h); NULL = they
    // are in memory.
    struct expert_layer *streamed;
};

struct block_params {
    struct tensor input_layernorm;   // [d]
    struct mla_params self_attn;
    struct tensor post_attention_layernorm;   // [d]
    bool is_moe;
    struct mlp_params mlp;   // dense layers
    struct moe_params moe;   // MoE layers
};

struct mtp_params {               // model.layers.(L+k); embedding and head are the main model's
    struct tensor enorm, hnorm;   // [d]
    struct tensor eh_proj;        // [d, 2d]: columns 0..d-1 take the embedding, d..2d-1 the hidden state
    struct block_params block;
    struct tensor shared_head_norm;   // [d]
};

struct model_params {
    struct tensor embed_tokens;    // [V, d]
    struct block_params *layers;   // num_hidden_layers
    struct tensor norm;            // [d]
    struct tensor lm_head;         // [V, d]; with tie_word_embeddings the same memory as embed_tokens
    struct mtp_params *mtp;        // num_nextn_predict_layers
};

enum param_kind {
    PARAM_EMBEDDING,
    PARAM_HEAD,
    PARAM_NORM,          // stays f32 or bf16; no weight decay, initialised to 1
    PARAM_LINEAR,        // every projection that FP8 may store
    PARAM_EH_PROJ,       // linear, always kept in BF16 on disk
    PARAM_ROUTER,        // gate.weight
    PARAM_ROUTER_BIAS,   // e_score_correction_bias: f32, no gradient
};

struct param {
    char name[128];   // checkpoint name, e.g. "model.layers.3.mlp.experts.17.up_proj.weight"
    enum param_kind kind;
    bool decay;   // weight decay applies: matrices and embeddings yes, norms and router bias no (U11, docs/numerics.md)
    bool trained;            // has a gradient (all but the router bias)
    int64_t layer, expert;   // -1 where it does not apply
    int rank;
    int64_t shape[2];
    struct tensor *tensor;   // the slot in the visited structure
};
typedef int (*param_visitor)(void *argument, const struct param *param, struct error *error);

// Allocates the layer and expert tables (all tensors absent) in `arena`; params_table_bytes is what they take, for
// arena_reserve.
size_t params_table_bytes(const struct model_config *config);
void params_create(struct model_params *params, const struct model_config *config, struct arena *arena);
// Walks in model order: embedding, layers (attention, FFN; experts ascending, gate/up/down), final norm, head, MTP
// modules. Stops at the first non-zero return and hands it back. A tied head is visited once (as the embedding).
// `error` may be NULL when the visitor cannot fail.
int params_visit(struct model_params *params, const struct model_config *config, param_visitor visitor, void *argument,
                 struct error *error);
// Gives every parameter (of the kinds that are `trained`, or all) memory of one format, zeroed; norms, router and its
// bias stay f32 when keep_small_f32.
int params_allocate(struct model_params *params, const struct model_config *config, enum format format,
                    bool keep_small_f32, bool only_trained, struct arena *arena, struct error *error);
// The same without memory: formats and shapes alone.
void params_shape(struct model_params *params, const struct model_config *config, enum format format);
// Normal(0, std) by (seed, hash of name, element index); norms 1, router bias 0. Same values for every format up to
// rounding.
int params_initialize(struct model_params *params, const struct model_config *config, uint64_t seed, double std,
                      struct op_context *op, struct error *error);
// One of them, into `tensor` (packed, of any format).
int param_initialize(struct tensor *tensor, const struct param *param, const struct model_config *config, uint64_t seed,
                     double std, struct op_context *op, struct error *error);

// The walk as an array (for pairing weights, gradients, masters and moments index by index).
struct param_list {
    struct param *items;
    int64_t count;
};
int params_list(struct param_list *list, struct model_params *params, const struct model_config *config,
                struct arena *arena, struct error *error);

#endif
