// Names that the writer (dataset_writer.c) and the reader (dataset.c) of a dataset share; see dataset.h for the layout.
#ifndef MINKE_DATA_DATASET_FORMAT_H
#define MINKE_DATA_DATASET_FORMAT_H

#define DATASET_FILE "dataset.json"
#define DATASET_FORMAT "minke-dataset"
#define DATASET_VERSION 1
#define DATASET_NARROW_VOCABULARY 65536   // up to here ids are stored as U16
#define DATASET_TOKENIZER "tokenizer.json"

static const char *const dataset_split_names[] = {"train", "validation"};   // by enum data_split

#endif
