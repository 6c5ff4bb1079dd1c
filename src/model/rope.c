// Rotary tables: positions -> cos, sin of every pair, with YaRN (spec 3.1, 3.2), and the softmax scale that goes with
// it (2.3).
//
//   theta_i = base^(-2i/dim);  corr(r) = dim ln(L0 / (2 pi r)) / (2 ln base);  low = floor(corr(beta_fast)), high =
//   ceil(corr(beta_slow)) ramp_i = clamp((i - low) / (high - low), 0, 1);  f_i = theta_i / factor * ramp_i + theta_i *
//   (1 - ramp_i) m(x) = 0.1 x ln(factor) + 1 (1 if factor <= 1);  amplitude of cos and sin = m(mscale) /
//   m(mscale_all_dim)
//
// mscale absent counts as 1 and mscale_all_dim absent as 0 (m(0) = 1), as in the modelling code published with the
// weights.
#include <math.h>

#include "base/math.h"
#include "model/config.h"

#define PI 3.14159265358979323846

static double yarn_mscale(const struct rope_scaling *rope, double mscale) {
    return rope->factor <= 1.0 ? 1.0 : 0.1 * mscale * math_log_double(rope->factor) + 1.0;
}

float model_softmax_scale(const struct model_config *config) {
    double scale = 1.0 / sqrt((double)model_qk_head_dim(config));
    if (config->rope_scaling.factor > 0.0 && config->rope_scaling.mscale_all_dim != 0.0) {
        double m = yarn_mscale(&config->rope_scaling, config->rope_scaling.mscale_all_dim);
        scale *= m * m;
    }
    return (float)scale;
}

// The pair index that turns `rotations` times over the original context.
static double yarn_correction(const struct model_config *config, double rotations) {
    double ratio = (double)config->rope_scaling.original_max_position_embeddings / (rotations * 2.0 * PI);
    return (double)config->qk_rope_head_dim * math_log_double(ratio) / (2.0 * math_log_double(config->rope_theta));
}

static double pair_frequency(const struct model_config *config, int64_t pair) {
    double dim = (double)config->qk_rope_head_dim;
    double theta = math_pow_double(config->rope_theta, -2.0 * (double)pair / dim);
    if (config->rope_scaling.factor == 0.0) {
        return theta;
    }
    double low = floor(yarn_correction(config, config->rope_scaling.beta_fast));
    double high = ceil(yarn_correction(config, config->rope_scaling.beta_slow));
    low = low > 0.0 ? low : 0.0;
    high = high < dim - 1.0 ? high : dim - 1.0;
    high = low == high ? high + 0.001 : high;   // no division by zero
    double ramp = ((double)pair - low) / (high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return theta / config->rope_scaling.factor * ramp + theta * (1.0 - ramp);
}

void model_rope_table(float *table, int64_t positions, const struct model_config *config) {
    const struct rope_scaling *rope = &config->rope_scaling;
    int64_t pairs = config->qk_rope_head_dim / 2;
    double amplitude = rope->factor == 0.0 ? 1.0
                                           : yarn_mscale(rope, rope->mscale) / yarn_mscale(rope, rope->mscale_all_dim);
    for (int64_t pair = 0; pair < pairs; pair++) {
        double frequency = pair_frequency(config, pair);
        for (int64_t position = 0; position < positions; position++) {
            double sine, cosine;
            math_sincos((double)position * frequency, &sine, &cosine);
            float *entry = table + 2 * (position * pairs + pair);
            entry[0] = (float)(cosine * amplitude);
            entry[1] = (float)(sine * amplitude);
        }
    }
}
