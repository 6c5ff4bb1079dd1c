// Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11).
// A value depends on (seed, stream, counter) alone, never on what was drawn before: initialisation, data order and
// sampling are reproducible whatever the number of threads, and there is no state to save but the counters' meaning.
#ifndef MINKE_BASE_RNG_H
#define MINKE_BASE_RNG_H

#include <stdint.h>

struct rng_block {
    uint32_t word[4];
};

// What the rounds are made of; op/cpu/avx512/random.c repeats them.
#define RNG_ROUNDS 10
#define RNG_FACTOR_EVEN 0xd2511f53u
#define RNG_FACTOR_ODD 0xcd9e8d57u
#define RNG_KEY_STEP_LOW 0x9e3779b9u    // golden ratio
#define RNG_KEY_STEP_HIGH 0xbb67ae85u   // square root of 3
#define RNG_TURN 6.283185307179586477   // of the angle in rng_normal

struct rng_block rng_philox(uint64_t seed, uint64_t stream, uint64_t counter);
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter);
float rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);                    // [0, 1), 24 bits
double rng_uniform_double(uint64_t seed, uint64_t stream, uint64_t counter);            // [0, 1), 53 bits
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t bound);   // unbiased to 2^-64 * bound
float rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);   // N(0,1), Box-Muller with our own log/sin/cos
uint64_t rng_hash_string(const char *text);                           // a stream number from a name (FNV-1a 64)

// A bijection of [0, count) chosen by (seed, stream): shuffling without an index array (cycle-walking Feistel network).
uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count);

#endif
