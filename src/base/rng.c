// Philox 4x32-10 and what is drawn from it. The counter block is (counter, stream), the key is the seed, both little
// end first; ten rounds of two 32x32 -> 64 bit products with the constants of the paper.
#include "base/rng.h"

#include "base/error.h"
#include "base/math.h"

__extension__ typedef unsigned __int128 wide_product;

struct rng_block rng_philox(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t word[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < RNG_ROUNDS; round++) {
        uint64_t even = (uint64_t)RNG_FACTOR_EVEN * word[0];
        uint64_t odd = (uint64_t)RNG_FACTOR_ODD * word[2];
        uint32_t next[4] = {(uint32_t)(odd >> 32) ^ word[1] ^ key[0], (uint32_t)odd,
                            (uint32_t)(even >> 32) ^ word[3] ^ key[1], (uint32_t)even};
        for (int i = 0; i < 4; i++) {
            word[i] = next[i];
        }
        key[0] += RNG_KEY_STEP_LOW;
        key[1] += RNG_KEY_STEP_HIGH;
    }
    return (struct rng_block){{word[0], word[1], word[2], word[3]}};
}

static uint64_t block_u64(struct rng_block block, int half) {
    return (uint64_t)block.word[2 * half + 1] << 32 | block.word[2 * half];
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    return block_u64(rng_philox(seed, stream, counter), 0);
}

float rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (float)(rng_u64(seed, stream, counter) >> 40) * 0x1p-24f;
}

double rng_uniform_double(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(rng_u64(seed, stream, counter) >> 11) * 0x1p-53;
}

uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t bound) {
    CHECK(bound > 0, "no number is below 0");
    return (uint64_t)((wide_product)rng_u64(seed, stream, counter) * bound >> 64);
}

float rng_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    struct rng_block block = rng_philox(seed, stream, counter);
    // The first uniform is in (0, 1], so that its logarithm is finite; the largest value is sqrt(2 * 53 * ln 2) = 8.57.
    double radius_uniform = ((double)(block_u64(block, 0) >> 11) + 1.0) * 0x1p-53;
    double angle = (double)(block_u64(block, 1) >> 11) * 0x1p-53 * RNG_TURN;
    double sine, cosine;
    math_sincos(angle, &sine, &cosine);
    return (float)(__builtin_sqrt(-2.0 * math_log_double(radius_uniform)) * cosine);
}

uint64_t rng_hash_string(const char *text) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    }
    return hash;
}

// The finalizer of splitmix64: every input bit reaches every output bit.
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count) {
    enum { ROUNDS = 8 };
    CHECK(index < count, "index %llu of %llu", (unsigned long long)index, (unsigned long long)count);
    // The network permutes [0, 4^half_bits), which is less than 4 * count, so a walk takes fewer than 4 steps on
    // average.
    unsigned half_bits = 1;
    while (half_bits < 32 && (uint64_t)1 << (2 * half_bits) < count) {
        half_bits++;
    }
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t keys[ROUNDS];
    for (unsigned round = 0; round < ROUNDS; round += 2) {
        struct rng_block block = rng_philox(seed, stream, UINT64_MAX - round);
        keys[round] = block_u64(block, 0);
        keys[round + 1] = block_u64(block, 1);
    }
    uint64_t value = index;
    do {
        uint64_t left = value >> half_bits, right = value & mask;
        for (unsigned round = 0; round < ROUNDS; round++) {
            uint64_t next = left ^ (mix(right ^ keys[round]) & mask);
            left = right;
            right = next;
        }
        value = left << half_bits | right;
    } while (value >= count);
    return value;
}
