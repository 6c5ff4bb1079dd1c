// Driver: train VOCABULARY OUT_DIRECTORY FILES...: each file is one document. Prints what was counted and the seconds.
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "text/bpe_train.h"

int main(int argc, char **argv) {
    struct error error = {0};
    struct pool *pool = NULL;
    struct bpe_trainer *trainer = NULL;
    struct bpe_train_result result;
    struct mapped_file file;
    if (argc < 4) {
        return 2;
    }
    double begin = clock_seconds();
    int code = pool_create(&pool, 0, &error);
    if (code == 0) {
        code = bpe_trainer_create(&trainer, pool, &error);
    }
    for (int i = 3; i < argc && code == 0; i++) {
        if ((code = file_map(&file, argv[i], &error)) == 0) {
            code = bpe_trainer_add(trainer, (const char *)file.data, file.size, &error);
            file_unmap(&file);
        }
    }
    double counted = clock_seconds();
    if (code == 0) {
        code = bpe_trainer_finish(&result, trainer, atoll(argv[1]), argv[2], NULL, &error);
    }
    if (code != 0) {
        fprintf(stderr, "%s\n", error.text);
    } else {
        printf(
            "%lld bytes, %lld pieces, %lld distinct, %lld merges, %lld placeholders; counting %.2f s, merging %.2f s\n",
            (long long)result.bytes, (long long)result.pieces, (long long)result.distinct, (long long)result.merges,
            (long long)result.placeholders, counted - begin, clock_seconds() - counted);
    }
    bpe_trainer_free(trainer);
    pool_destroy(pool);
    return code == 0 ? 0 : 1;
}
