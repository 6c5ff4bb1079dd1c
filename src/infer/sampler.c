// See sampler.h.
//
// temperature: p_i = exp((z_i - max) / T), not normalised. The token is found by walking the cumulative sum in
// ascending id up to u * sum(p), u = uniform(seed, stream of the choice, position): one draw per position. top-k: the k
// largest, ties to the lowest id. top-p: the nucleus is every token at least as likely as the edge; the edge is the
// largest probability such that tokens at or above it hold top_p of the mass (ties at the edge all belong). min-p: the
// largest p is 1, so the floor is min_p itself. Nothing is sorted: tokens below (1 - top_p) * sum / vocab_size cannot
// reach the edge (all of them together weigh less than what may be left out), which leaves few candidates; the edge is
// found among them by a histogram over the leading bits of positive floats, whose order is that of unsigned integers,
// and bisection.
#include "infer/sampler.h"

#include <math.h>
#include <string.h>

#include "base/math.h"
#include "base/memory.h"
#include "base/rng.h"

#define SAMPLER_STREAM 0x73616d706c65ull      // "sample": keeps these draws apart from initialisation and data order
#define CHOICE_STRIDE 0x9e3779b97f4a7c15ull   // odd: choices have streams of their own
#define WALK_BLOCK 64

int sampler_create(struct sampler *sampler, int64_t vocab_size, struct error *error) {
    size_t size = (size_t)vocab_size;
    *sampler = (struct sampler){.vocab_size = vocab_size};
    sampler->probability = memory_allocate(size, sizeof *sampler->probability, "sampler", error);
    sampler->scratch = memory_allocate(size, sizeof *sampler->scratch, "sampler", error);
    sampler->id = memory_allocate(size, sizeof *sampler->id, "sampler", error);
    sampler->generated = memory_allocate(size, sizeof *sampler->generated, "sampler", error);
    sampler->seen = memory_allocate(size, sizeof *sampler->seen, "sampler", error);
    sampler->allowed = memory_allocate((size + 63) / 64, sizeof *sampler->allowed, "sampler", error);
    if (sampler->scratch == NULL || sampler->probability == NULL || sampler->id == NULL || sampler->generated == NULL ||
        sampler->seen == NULL || sampler->allowed == NULL) {
        sampler_destroy(sampler);
        return ERROR_MEMORY;
    }
    return 0;
}

void sampler_destroy(struct sampler *sampler) {
    memory_free(sampler->scratch);
    memory_free(sampler->probability);
    memory_free(sampler->id);
    memory_free(sampler->generated);
    memory_free(sampler->seen);
    memory_free(sampler->allowed);
    *sampler = (struct sampler){0};
}

// The lowest index of a value that is there; 0 if it is not (all NaN).
static int64_t index_of(const float *values, float value, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (values[i] == value) {
            return i;
        }
    }
    return 0;
}

int32_t sampler_argmax(const struct op_context *op, const float *logits, int64_t vocab_size) {
    return (int32_t)index_of(logits, op_row_maximum(op, logits, vocab_size), vocab_size);
}

// ---- Bias, penalties, filter ----------------------------------------------------------------------------------------

static bool has_repetition_penalty(const struct minke_sampling *sampling) {
    return sampling->repetition_penalty > 0 && sampling->repetition_penalty != 1.0f;
}

static bool has_penalties(const struct minke_sampling *sampling) {
    return sampling->frequency_penalty != 0 || sampling->presence_penalty != 0 || has_repetition_penalty(sampling);
}

// Each token once: repetition (divides positive logits, multiplies negative ones), then frequency and presence.
static void apply_penalties(struct sampler *sampler, float *logits, const struct minke_sampling *sampling,
                            const struct sampler_text *text) {
    bool repetition = has_repetition_penalty(sampling);
    for (int64_t i = 0; i < text->count; i++) {
        sampler->seen[text->ids[i]]++;
        sampler->generated[text->ids[i]] += i >= text->prompt_count;
    }
    for (int64_t i = 0; i < text->count; i++) {
        int32_t id = text->ids[i];
        if (sampler->seen[id] == 0) {
            continue;   // done
        }
        if (repetition) {
            logits[id] = logits[id] > 0 ? logits[id] / sampling->repetition_penalty
                                        : logits[id] * sampling->repetition_penalty;
        }
        if (sampler->generated[id] > 0) {
            logits[id] -= (float)sampler->generated[id] * sampling->frequency_penalty;
            logits[id] -= sampling->presence_penalty;
        }
        sampler->seen[id] = sampler->generated[id] = 0;
    }
}

static void apply_filter(struct sampler *sampler, float *logits, const struct minke_token_filter *filter) {
    int64_t words = (sampler->vocab_size + 63) / 64;
    memset(sampler->allowed, 0xff, (size_t)words * sizeof *sampler->allowed);
    filter->restrict_tokens(filter->argument, sampler->allowed, sampler->vocab_size);
    for (int64_t w = 0; w < words; w++) {
        uint64_t forbidden = ~sampler->allowed[w];
        for (; forbidden != 0; forbidden &= forbidden - 1) {
            int64_t id = w * 64 + __builtin_ctzll(forbidden);
            if (id < sampler->vocab_size) {
                logits[id] = -INFINITY;
            }
        }
    }
}

static const float *adjusted_logits(struct sampler *sampler, const float *logits, const struct minke_sampling *sampling,
                                    const struct sampler_text *text, const struct minke_token_filter *filter) {
    bool penalties = has_penalties(sampling);
    if (sampling->logit_bias_count == 0 && !penalties && filter == NULL) {
        return logits;
    }
    memcpy(sampler->probability, logits, (size_t)sampler->vocab_size * sizeof *logits);
    for (int64_t i = 0; i < sampling->logit_bias_count; i++) {
        sampler->probability[sampling->logit_bias[i].id] += sampling->logit_bias[i].bias;
    }
    if (penalties) {
        apply_penalties(sampler, sampler->probability, sampling, text);
    }
    if (filter != NULL) {
        apply_filter(sampler, sampler->probability, filter);
    }
    return sampler->probability;
}

// ---- Candidates -----------------------------------------------------------------------------------------------------

static double total_mass(const float *probability, int64_t count) {
    double lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (int l = 0; l < 8; l++) {
            lane[l] += (double)probability[i + l];
        }
    }
    for (; i < count; i++) {
        lane[i % 8] += (double)probability[i];
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// Keeps the candidates with probability >= floor, in order of id; returns how many.
static int64_t keep_from(struct sampler *sampler, int64_t count, float floor) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        float probability = sampler->probability[i];
        int32_t id = sampler->id[i];
        sampler->probability[kept] = probability;   // kept <= i: what is overwritten has been read
        sampler->id[kept] = id;
        kept += probability >= floor;
    }
    return kept;
}

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#define EDGE_SHIFT 19   // low bits of a probability that a level of the histogram leaves open
#define EDGE_LEVELS (0x3f800000 >> EDGE_SHIFT)

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The largest floor whose tokens hold at least `wanted`, as mass or as number; probabilities are in [0, 1], the largest
// is 1. A histogram over the leading bits finds the level of the edge, bisection the edge among what is in that level.
static float find_edge(struct sampler *sampler, int64_t count, double wanted, bool number) {
    double level[EDGE_LEVELS + 1] = {0}, above = 0;
    for (int64_t i = 0; i < count; i++) {
        float probability = sampler->probability[i];
        level[bits_of_float(probability) >> EDGE_SHIFT] += number ? 1.0 : (double)probability;
    }
    int64_t at = EDGE_LEVELS;
    for (; at > 0 && above + level[at] < wanted; at--) {
        above += level[at];
    }
    int64_t some = 0;
    for (int64_t i = 0; i < count; i++) {
        sampler->scratch[some] = sampler->probability[i];
        some += bits_of_float(sampler->probability[i]) >> EDGE_SHIFT == (uint32_t)at;
    }
    uint32_t low = (uint32_t)at << EDGE_SHIFT, high = low + (1u << EDGE_SHIFT) - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2 + 1;
        float floor = float_from_bits(middle);
        double found = above;
        for (int64_t i = 0; i < some; i++) {
            found += sampler->scratch[i] < floor ? 0 : number ? 1.0 : (double)sampler->scratch[i];
        }
        if (found >= wanted) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return float_from_bits(low);
}

// Keeps the `wanted` largest, at their edge those of the lowest ids.
static int64_t keep_largest(struct sampler *sampler, int64_t count, int64_t wanted) {
    float edge = find_edge(sampler, count, (double)wanted, true);
    int64_t ties = wanted, kept = 0;
    for (int64_t i = 0; i < count; i++) {
        ties -= sampler->probability[i] > edge;
    }
    for (int64_t i = 0; i < count; i++) {
        float probability = sampler->probability[i];
        bool keep = probability > edge || (probability == edge && ties-- > 0);
        if (keep) {
            sampler->probability[kept] = probability;
            sampler->id[kept++] = sampler->id[i];
        }
    }
    return kept;
}

// What is left of the exponentials after top-k, top-p and min-p.
static int64_t cut_candidates(struct sampler *sampler, const struct minke_sampling *sampling) {
    int64_t count = sampler->vocab_size;
    for (int64_t i = 0; i < count; i++) {
        sampler->id[i] = (int32_t)i;
    }
    if (sampling->top_k > 0 && sampling->top_k < count) {
        count = keep_largest(sampler, count, sampling->top_k);
    }
    if (sampling->top_p < 1.0f) {
        double mass = total_mass(sampler->probability, count);
        double wanted = (sampling->top_p > 0 ? (double)sampling->top_p : 0) * mass;
        count = keep_from(sampler, count, (float)(0.5 * (mass - wanted) / (double)count));
        count = keep_from(sampler, count, find_edge(sampler, count, wanted, false));
    }
    if (sampling->min_p > 0) {
        count = keep_from(sampler, count, sampling->min_p < 1.0f ? sampling->min_p : 1.0f);
    }
    return count;
}

// The candidate at which the cumulative sum passes u of the mass; -1 if rounding leaves none.
static int64_t walk(const float *probability, int64_t count, double u) {
    double target = u * total_mass(probability, count), walked = 0;
    for (int64_t begin = 0; begin < count; begin += WALK_BLOCK) {
        int64_t some = count - begin < WALK_BLOCK ? count - begin : WALK_BLOCK;
        double block = total_mass(probability + begin, some);
        if (walked + block > target) {
            int64_t last = -1;
            for (int64_t i = begin; i < begin + some; i++) {
                last = probability[i] > 0 ? i : last;
                walked += (double)probability[i];
                if (walked > target) {
                    return i;
                }
            }
            return last;   // the block's sum and its walk differ in the last bit
        }
        walked += block;
    }
    return -1;
}

int32_t sampler_choose(struct sampler *sampler, const struct op_context *op, const float *logits,
                       const struct minke_sampling *sampling, const struct sampler_text *text,
                       const struct minke_token_filter *filter) {
    int64_t count = sampler->vocab_size;
    const float *wanted = adjusted_logits(sampler, logits, sampling, text, filter);
    float maximum = op_row_maximum(op, wanted, count);
    if (maximum == -INFINITY && wanted != logits) {
        return -1;
    }
    int32_t best = (int32_t)index_of(wanted, maximum, count);
    if (!(sampling->temperature > 0) || !isfinite(maximum)) {
        return best;
    }
    float inverse_temperature = 1.0f / sampling->temperature, zero;
    for (int64_t i = 0; i < count; i++) {   // NaN compares false: no mass
        sampler->probability[i] = wanted[i] >= -INFINITY ? (wanted[i] - maximum) * inverse_temperature : -INFINITY;
    }
    op_softmax_row(op, sampler->probability, &zero, sampler->probability, count);
    bool cut = sampling->top_k > 0 || sampling->top_p < 1.0f || sampling->min_p > 0;
    if (cut) {
        count = cut_candidates(sampler, sampling);
    }
    uint64_t stream = SAMPLER_STREAM + (uint64_t)sampling->choice * CHOICE_STRIDE;
    int64_t found = walk(sampler->probability, count,
                         rng_uniform_double(sampling->seed, stream, (uint64_t)text->count));
    return found < 0 ? best : cut ? sampler->id[found] : (int32_t)found;
}

// ---- Log-probabilities ----------------------------------------------------------------------------------------------

struct row_probabilities row_probabilities(const struct op_context *op, const float *logits, int64_t vocab_size) {
    struct row_probabilities row;
    row.log_sum = math_log(op_softmax_row(op, NULL, &row.maximum, logits, vocab_size));
    return row;
}

float row_log_probability(const struct row_probabilities *row, const float *logits, int32_t id) {
    return -(row->log_sum + (row->maximum - logits[id]));
}

int64_t row_likeliest(struct minke_token_probability *top, int64_t count, const struct row_probabilities *row,
                      const float *logits, int64_t vocab_size) {
    int64_t found = 0;
    float least = -INFINITY;   // of what is in a full list
    for (int64_t i = 0; i < vocab_size && count > 0; i++) {
        if (!(logits[i] > least) && (found == count || !(logits[i] >= -INFINITY))) {
            continue;
        }
        int64_t at = found < count ? found++ : count - 1;
        for (; at > 0 && logits[top[at - 1].id] < logits[i]; at--) {
            top[at] = top[at - 1];
        }
        top[at].id = (int32_t)i;
        least = found == count ? logits[top[count - 1].id] : -INFINITY;
    }
    for (int64_t i = 0; i < found; i++) {
        top[i].log_probability = row_log_probability(row, logits, top[i].id);
    }
    return found;
}
