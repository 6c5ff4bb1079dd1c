// See sampler.h.
//
// temperature: p_i = exp((z_i - max) / T), not normalised. The token is found by walking the cumulative sum in
// ascending id up to u * sum(p), u = uniform(seed, stream, position): one draw per position. top-p: the nucleus is
// every token at least as likely as the edge; the edge is the largest probability such that tokens at or above it hold
// top_p of the mass (ties at the edge all belong). Nothing is sorted: tokens below (1 - top_p) * sum / vocab_size
// cannot reach the edge (all of them together weigh less than what may be left out), which leaves few candidates; the
// edge is found among them by bisection over the bit patterns of positive floats, whose order is that of unsigned
// integers.
#include "infer/sampler.h"

#include <math.h>
#include <string.h>

#include "base/math.h"
#include "base/memory.h"
#include "base/rng.h"

#define SAMPLER_STREAM 0x73616d706c65ull   // "sample": keeps these draws apart from initialisation and data order

int sampler_create(struct sampler *sampler, int64_t vocab_size, struct error *error) {
    sampler->vocab_size = vocab_size;
    sampler->probability = memory_allocate((size_t)vocab_size, sizeof *sampler->probability, "sampler", error);
    sampler->id = memory_allocate((size_t)vocab_size, sizeof *sampler->id, "sampler", error);
    if (sampler->probability == NULL || sampler->id == NULL) {
        sampler_destroy(sampler);
        return ERROR_MEMORY;
    }
    return 0;
}

void sampler_destroy(struct sampler *sampler) {
    memory_free(sampler->probability);
    memory_free(sampler->id);
    *sampler = (struct sampler){0};
}

int32_t sampler_argmax(const float *logits, int64_t vocab_size) {
    int64_t best = 0;
    float best_value = -INFINITY;
    for (int64_t i = 0; i < vocab_size; i++) {
        if (logits[i] > best_value) {
            best_value = logits[i];
            best = i;
        }
    }
    return (int32_t)best;
}

// Keeps the candidates with probability >= floor, in order of id; returns how many, and their mass.
static int64_t keep_from(struct sampler *sampler, int64_t count, float floor, double *mass) {
    int64_t kept = 0;
    *mass = 0;
    for (int64_t i = 0; i < count; i++) {
        if (sampler->probability[i] >= floor) {
            sampler->probability[kept] = sampler->probability[i];
            sampler->id[kept] = sampler->id[i];
            *mass += (double)sampler->probability[kept];
            kept++;
        }
    }
    return kept;
}

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double mass_from(const struct sampler *sampler, int64_t count, float floor) {
    double mass = 0;
    for (int64_t i = 0; i < count; i++) {
        mass += sampler->probability[i] >= floor ? (double)sampler->probability[i] : 0;
    }
    return mass;
}

// The largest floor whose tokens hold at least `wanted`; probabilities are in [0, 1], the largest is 1.
static float nucleus_edge(const struct sampler *sampler, int64_t count, double wanted) {
    uint32_t low = 0, high = 0x3f800000u;   // 0.0f and 1.0f
    while (low < high) {
        uint32_t middle = low + (high - low) / 2 + 1;
        if (mass_from(sampler, count, float_from_bits(middle)) >= wanted) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return float_from_bits(low);
}

int32_t sampler_choose(struct sampler *sampler, const float *logits, const struct sampling *sampling,
                       int64_t position) {
    int64_t count = sampler->vocab_size;
    int32_t best = sampler_argmax(logits, count);
    float maximum = logits[best];
    if (!(sampling->temperature > 0) || !isfinite(maximum)) {
        return best;
    }
    float inverse_temperature = 1.0f / sampling->temperature;
    double mass = 0;
    for (int64_t i = 0; i < count; i++) {
        float logit = logits[i];   // NaN compares false: no mass
        sampler->probability[i] = logit >= -INFINITY ? math_exp((logit - maximum) * inverse_temperature) : 0.0f;
        sampler->id[i] = (int32_t)i;
        mass += (double)sampler->probability[i];
    }
    if (sampling->top_p < 1.0f) {
        double wanted = (sampling->top_p > 0 ? (double)sampling->top_p : 0) * mass;
        count = keep_from(sampler, count, (float)(0.5 * (mass - wanted) / (double)count), &mass);
        count = keep_from(sampler, count, nucleus_edge(sampler, count, wanted), &mass);
    }
    double target = rng_uniform_double(sampling->seed, SAMPLER_STREAM, (uint64_t)position) * mass;
    double walked = 0;
    for (int64_t i = 0; i < count; i++) {
        walked += (double)sampler->probability[i];
        if (walked > target) {
            return sampler->id[i];
        }
    }
    return best;
}
